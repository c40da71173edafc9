"""`metalens serve`: the same predictions as in Python, within limits, and nothing for other pages."""

import io
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import draws
from metalens.estimators.images import ImageReader
from tests.small_table import small_table

testclient = pytest.importorskip("starlette.testclient")
app = pytest.importorskip("metalens.serving.app")

NAMES = {"voltage": "<b>volt</b>", "sensor": "sensor", "pressure": "<i>pressure</i>"}


def sensors(n=20, rows=8):
    rng = np.random.default_rng(0)
    sensor = np.repeat(np.arange(n), rows)
    frame = pd.DataFrame({"sensor": sensor, "voltage": rng.normal(size=n * rows)})
    frame["pressure"] = frame.voltage * (1 + sensor % 3) + rng.normal(size=n * rows)
    return frame.rename(columns=NAMES)


def fitted(kind, frame, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two steps
        model = kind("R2D2(prior_mean=True)", hidden=(8,), steps=2, baselines=(), fallback=False)
        return model.fit(frame, task="sensor", target=NAMES["pressure"], **how)


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "SHOTS", (0, 3))
        return fitted(MetaRegressor, sensors(60))


@pytest.fixture(scope="module")
def client(model):
    return testclient.TestClient(
        app.application(model, max_bytes=5_000, max_rows=40), base_url="http://127.0.0.1:8000"
    )


def one_task():
    """Rows of a task, of which every other is to be predicted."""
    frame = sensors(1)
    frame.loc[::2, NAMES["pressure"]] = np.nan
    return frame


def post(client, body, kind="text/csv", **query):
    return client.post("/predict", content=body, headers={"Content-Type": kind}, params=query)


def test_a_table_and_rows_are_predicted_as_in_python(client, model):
    frame, target = one_task(), NAMES["pressure"]
    adapted, asked = model.adapt(frame[frame[target].notna()]), frame[frame[target].isna()]
    found = post(client, frame.to_csv(index=False), coverage=0.8).json()
    assert found["model"] == adapted.model
    assert found["n_support"] == 4
    assert [row["row"] for row in found["rows"]] == [1, 3, 5, 7]
    np.testing.assert_allclose(
        [row["prediction"] for row in found["rows"]], adapted.predict(asked), rtol=1e-6
    )
    limits = [(row["lower"], row["upper"]) for row in found["rows"]]
    np.testing.assert_allclose(limits, adapted.predict_interval(asked, 0.8), rtol=1e-6)
    assert [row["row"] for row in found["known"]] == [2, 4, 6, 8]
    rows = [
        {name: None if value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    same = client.post("/predict", json={"rows": rows}, params={"coverage": 0.8}).json()
    assert same == found


def test_without_known_rows_what_all_tasks_share_predicts(client, model):
    frame = sensors(1)[[NAMES["voltage"]]]
    found = post(client, frame.to_csv(index=False)).json()
    assert found["n_support"] == 0
    np.testing.assert_allclose([row["prediction"] for row in found["rows"]], model.predict(frame), rtol=1e-6)


def test_too_few_held_out_tasks_have_no_intervals_and_a_note(client):
    found = post(client, one_task().to_csv(index=False), coverage=0.99).json()
    assert "need 99 calibration tasks" in found["note"]
    assert "lower" not in found["rows"][0]


def test_classes_have_probabilities():
    frame = sensors()
    frame[NAMES["pressure"]] = np.where(frame[NAMES["pressure"]] > 0, "high", "low")
    model = fitted(MetaClassifier, frame)
    few = frame[:8].copy()
    few.loc[few.index >= 5, NAMES["pressure"]] = None
    client = testclient.TestClient(app.application(model), base_url="http://localhost")
    for row in post(client, few.to_csv(index=False)).json()["rows"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)


def test_the_page_shows_names_as_text_and_runs_its_own_script_alone(client):
    reply = client.get("/")
    assert "<b>volt" not in reply.text
    assert "&lt;b&gt;volt&lt;/b&gt;" in reply.text
    policy = reply.headers["Content-Security-Policy"]
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert policy.startswith("default-src 'none'")
    assert reply.text.count("<script") == reply.text.count(f'<script nonce="{nonce}">') == 1
    assert nonce not in client.get("/").text
    assert "http://" not in reply.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in reply.text


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("table.csv", "a\n1\n")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        ("x" * 5001, "text/csv", 413, "5,000 bytes"),
        ("sensor\n" + "1\n" * 41, "text/csv", 413, "40 rows, got 41"),
        ("", "text/csv", 422, "table.csv"),
        ("/etc/passwd", "text/csv", 422, "no rows"),
        ("sensor,other\n1,2\n", "text/csv", 422, "has no column <b>volt</b>"),
        (b"\x00\xff\xfe\x00", "text/csv", 422, "table.csv"),
        (zipped(), "text/csv", 422, "table.csv"),
        ("a,b\n1,2\n", "text/plain", 415, "text/csv"),
        ("a=1", "application/x-www-form-urlencoded", 415, "text/csv"),
        ("{", "application/json", 422, "not JSON"),
        ("[" * 4000, "application/json", 422, "not JSON"),
        ('"/etc/passwd"', "application/json", 422, "rows must be a list"),
        ('{"rows": "/etc/passwd"}', "application/json", 422, "rows must be a list"),
        ('{"rows": []}', "application/json", 422, "rows must be a list"),
        ('{"rows": [{"sensor": {"a": 1}}]}', "application/json", 422, "Row 1 of column sensor"),
        ('{"rows": [{"<b>volt</b>": 1e400}]}', "application/json", 422, "<b>volt</b>"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_sentence(client, body, kind, status, reason):
    reply = post(client, body, kind)
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["error"]
    assert "/tmp" not in reply.text


@pytest.mark.parametrize("coverage", ["0", "1", "nan", "much"])
def test_a_coverage_out_of_range_is_refused(client, coverage):
    reply = post(client, one_task().to_csv(index=False), coverage=coverage)
    assert (reply.status_code, reply.json()["error"][:8]) == (422, "coverage")


def test_rows_of_two_tasks_and_rows_that_are_all_known_are_refused(client):
    assert "rows of 2 tasks" in post(client, sensors(2).to_csv(index=False)).json()["error"]
    assert "is known in all rows" in post(client, sensors(1).to_csv(index=False)).json()["error"]


def test_pages_that_call_the_server_by_another_name_get_nothing(client):
    reply = client.get("/", headers={"Host": "evil.example.org"})
    assert reply.status_code == 400
    assert "volt" not in reply.text
    reply = client.options("/predict", headers={"Origin": "http://evil.example.org",
                                                "Access-Control-Request-Method": "POST"})  # fmt: skip
    assert "access-control-allow-origin" not in reply.headers
    for path in ("/docs", "/openapi.json", "/model.json", "/../etc/passwd", "/predict"):
        assert client.get(path).status_code in (404, 405)


def test_models_of_images_and_of_wide_tables_are_refused(model, monkeypatch):
    monkeypatch.setattr(model, "reader_", ImageReader(32, True))
    with pytest.raises(MetaLensError, match="images cannot be served"):
        app.application(model)
    panel = small_table().pivot_table(index="row", columns="assay", values="activity").reset_index()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = MetaRegressor("R2D2", hidden=(8,), steps=2, baselines=(), fallback=False)
        wide.fit(panel, wide=True, inputs=["row"])
    with pytest.raises(MetaLensError, match="wide table cannot be served"):
        app.application(wide)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--port", "0"), "--port must be between 1 and 65535"),
        (("--max_rows", "0"), "--max_rows must be at least 1"),
        ((), "missing is no saved model"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(metalens_here, words, reason):
    ended = metalens_here("serve", "--model", "missing", *words)
    assert ended.returncode == 2
    assert reason in ended.stderr


def test_the_command_listens_on_this_machine_alone(metalens_here, monkeypatch, model, tmp_path):
    import uvicorn

    served = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: served.update(how))
    model.save(tmp_path / "model")
    ended = metalens_here("serve", "--model", "model")
    assert (ended.returncode, served["host"], served["port"]) == (0, "127.0.0.1", 8000)
    assert "http://127.0.0.1:8000/" in ended.stdout
    assert "no password" in metalens_here("serve", "--model", "model", "--host", "0.0.0.0").stdout
