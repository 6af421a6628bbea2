"""edgectl's command line: its commands, and how each of them ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from edged.ctl import asked as options
from edged.ctl import faults, output
from edged.ctl.asked import Asked
from edged.ctl.lazy import Entry, LazyGroup
from edged.document import DocumentError
from edged.errors import EdgedError

PROGRAM = "edgectl"
COMPLETE_VARIABLE = "_EDGECTL_COMPLETE"


COMMANDS = {
    "status": Entry("edged.ctl.query", "status", "What edged is doing, and how its models are."),
    "models": Entry("edged.ctl.query", "models", "The models: what serves, what was passed over and why."),
    "workers": Entry("edged.ctl.query", "workers", "The processes that run the models."),
    "events": Entry("edged.ctl.query", "events", "What happened since edged started."),
    "regions": Entry("edged.ctl.query", "regions", "The shared memory that applications have registered."),
    "stats": Entry("edged.ctl.statistics", "stats", "What models did since edged started, and where the time went."),
    "top": Entry("edged.ctl.top", "top", "A live view of what is asked, how long it takes, and what it costs."),
    "load": Entry("edged.ctl.repository", "load", "Have a model serve."),
    "unload": Entry("edged.ctl.repository", "unload", "End a model's workers; its memory goes back."),
    "telemetry": Entry("edged.ctl.telemetry", "telemetry", "What waits for the broker, and whether it takes it."),
    "watch": Entry("edged.ctl.watch", "watch", "Follow what changes, as it changes."),
    "infer": Entry("edged.ctl.infer", "infer", "Ask a model, with a picture or with arrays."),
    "bench": Entry("edged.ctl.bench", "bench", "Load a model, and measure how it answers."),
    "sensors": Entry("edged.ctl.sensors", "sensors", "What this device tells of its heat, memory, power and storage."),
    "governor": Entry("edged.ctl.governor", "governor", "Look into what pressure made edged decide."),
    "update": Entry("edged.ctl.update", "update", "Look at the repository now, and begin what the plan wants."),
    "history": Entry("edged.ctl.update", "history", "Every step of updates, with its reason; kept across restarts."),
    "explain": Entry("edged.ctl.update", "explain", "Why this revision of a model serves."),
    "rollback": Entry("edged.ctl.update", "rollback", "Have a model go back to another revision."),
    "pin": Entry("edged.ctl.update", "pin", "Keep a model at a revision, whatever the plan says."),
    "unpin": Entry("edged.ctl.update", "unpin", "Let the plan decide about a model again."),
    "quarantine": Entry("edged.ctl.update", "quarantine", "What failed here and is not tried again."),
    "store": Entry("edged.ctl.update", "store", "What the store of models holds, and whether it is whole."),
    "bundle": Entry("edged.ctl.bundle", "bundle", "Check, pack and import models; needs no edged."),
    "doctor": Entry("edged.ctl.doctor", "doctor", "Find what is wrong on this device, and how to mend it."),
    "boot": Entry("edged.ctl.boot", "boot", "Hold this boot of the operating system against the last good one."),
    "fleet": Entry("edged.fleet.commands", "fleet", "Publish models to many devices; needs no edged."),
    "version": Entry("edged.ctl.query", "version", "The versions of edgectl and of the running edged."),
    "completion": Entry("edged.ctl.completion", "completion", "Print the completion script of a shell."),
}


@click.command(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@options.on_group
def cli() -> None:
    """Ask the edged of this device what it does, try its models, and check bundles.

    The options below may also stand after the command. Each command tells more: `edgectl infer --help`.

    \b
    Exit status:
      0  done
      1  the answer is no: not ready, a check failed, a request was refused
      2  wrong usage
      3  edged is not running, or does not answer
      4  not permitted
    """


def main() -> None:
    """Runs edgectl on the process's arguments and exits."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # edgectl has words of its own for what fails
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and gives its exit status."""
    asked = Asked()
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        return shell_complete(cli, {"obj": asked}, PROGRAM, COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context(PROGRAM, list(arguments), obj=asked) as context:
            found = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except EdgedError as error:
        return _fail(error, asked)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return faults.WRONG_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        said = error.format_message().rstrip(".")
        output.fail(f"{said[:1].lower()}{said[1:]}; see `{where} --help`")
        return faults.WRONG_USAGE
    except KeyboardInterrupt:
        return faults.INTERRUPTED
    except BrokenPipeError:  # whoever reads the answer has seen enough
        _discard_output()
        return faults.DONE
    except PermissionError as error:
        where = f"{error.filename}: " if error.filename else ""
        output.fail(f"{where}{error.strerror or error}; try again with sudo")
        return faults.NOT_PERMITTED
    except OSError as error:
        _discard_output()
        where = f"{error.filename}: " if error.filename else ""
        output.fail(f"{where}{error.strerror or error}; nothing more was done")
        return faults.NO
    return found if isinstance(found, int) else faults.DONE


def _fail(error: EdgedError, asked: Asked) -> int:
    if isinstance(error, DocumentError):
        for problem in error.problems:
            output.fail(str(problem))
    elif isinstance(error, faults.RefusedError):
        output.fail(f"{error} ({error.word})")
    else:
        output.fail(str(error))
    if asked.as_json:
        output.document({"error": {"code": faults.word(error), "message": str(error)}})
    return faults.exit_status(error)


def _discard_output() -> None:
    """What could not be written is not to be tried again when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
