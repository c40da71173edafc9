"""`metalens serve`: a page and a JSON end point for a trained model, on this machine."""

from jsonargparse import ArgumentParser, Namespace

from metalens.cli.progress import say
from metalens.errors import MetaLensError, extra
from metalens.serving import MAX_BYTES, MAX_ROWS


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Serve a model of a table: a page where a table with a few known rows is dropped, and POST /predict, "
        "which takes CSV or JSON. Only this machine is answered unless --host says otherwise; there are no "
        "passwords and no encryption. Nothing that is sent is kept."
    )
    # fmt: off
    add = parser.add_argument
    add("--model", type=str, required=True, help="Folder that `metalens train` has written.")
    add("--host", type=str, default="127.0.0.1",
        help="Address to listen at; 0.0.0.0 for every machine that can reach this one.")
    add("--port", type=int, default=8000, help="Port to listen at.")
    add("--max_bytes", type=int, default=MAX_BYTES, help="The most bytes of a table.")
    add("--max_rows", type=int, default=MAX_ROWS, help="The most rows of a table.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Load the model, and serve it until Ctrl-C."""
    for name in ("max_bytes", "max_rows"):
        if settings[name] < 1:
            raise MetaLensError(f"--{name} must be at least 1, got {settings[name]}.")
    if not 0 < settings.port < 65536:
        raise MetaLensError(f"--port must be between 1 and 65535, got {settings.port}.")
    with extra("serve"):
        import uvicorn
    from metalens.estimators import load_model  # slow to import
    from metalens.serving.app import LOOPBACK, application

    is_local = settings.host in LOOPBACK
    limits = {"max_bytes": settings.max_bytes, "max_rows": settings.max_rows}
    app = application(load_model(settings.model), **limits, hosts=LOOPBACK if is_local else ("*",))
    if not is_local:
        say(
            f"Every machine that can reach {settings.host} may use the model; there is no password.",
            wrap=True,
        )
    say(f"Serving {settings.model} at http://{settings.host}:{settings.port}/ until Ctrl-C.", wrap=True)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", server_header=False)
