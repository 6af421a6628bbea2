"""Completion in shells: the script, and the names that only the running daemon knows."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class

from edged.ctl.asked import Asked
from edged.errors import EdgedError

# Nobody waits longer for a list of names while typing.
_PATIENCE_S = 1.0


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Try it in the shell that you are in:
      bash:  eval "$(edgectl completion bash)"
      zsh:   eval "$(edgectl completion zsh)"
      fish:  edgectl completion fish | source

    \b
    Have it in every new shell:
      bash:  edgectl completion bash >> ~/.bashrc
      zsh:   edgectl completion zsh > ~/.zfunc/_edgectl   (in your $fpath)
      fish:  edgectl completion fish > ~/.config/fish/completions/edgectl.fish
    """
    from edged.ctl.main import COMPLETE_VARIABLE, PROGRAM, cli

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice names only those that click has
    script = kind(cli, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not source(): for bash that runs a bash, which a device may lack, to ask for its version.
    sys.stdout.write(script.source_template % script.source_vars())


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's
    """The names of models that begin with `incomplete`; none where the daemon cannot be asked quickly."""
    asked = ctx.find_object(Asked) or Asked()
    asked.quiet = True
    asked.timeout_s = min(asked.timeout_s, _PATIENCE_S)
    try:
        from edged.ctl.client import Client

        with Client(asked, admin=True) as client:
            found = client.index().models
    except EdgedError:
        return []
    return sorted({model.name for model in found if model.name.startswith(incomplete)})
