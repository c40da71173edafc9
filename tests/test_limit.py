"""`--max-seconds` fails a session in which a test that is not marked slow computes for too long."""

import pytest

SOURCE = """
    import time, pytest

    def work(seconds):
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass

    @pytest.fixture(scope="session")
    def prepared():
        work(0.3)

    def test_computes(): work(0.3)
    def test_waits(prepared): time.sleep(0.3)

    @pytest.mark.slow
    def test_may(): work(0.3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_only_a_test_that_computes_for_long_fails_the_session(pytester, pytestconfig, workers):
    source = (pytestconfig.rootpath / "tests" / "limit.py").read_text(encoding="utf-8")
    pytester.makeconftest(source)
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    full\n")
    pytester.makepyfile(SOURCE)
    done = pytester.runpytest_inprocess("--max-seconds", "0.2", "-n", str(workers))
    done.assert_outcomes(passed=3)
    assert done.ret == 1
    (line,) = (line for line in done.outlines if line.startswith("Over 0.2 s"))
    assert "test_computes" in line
    assert pytester.runpytest_inprocess("--max-seconds", "9", "-n", str(workers)).ret == 0
