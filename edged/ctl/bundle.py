"""`edgectl bundle`: what the author of a bundle needs; no daemon is asked."""

from __future__ import annotations

from pathlib import Path

import click

from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION
from edged.ctl.words import count, size

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group
@common
def bundle() -> None:
    """Check, pack and import models; needs no edged.

    docs/bundle.md says how to write a bundle.
    """


@bundle.command
@common
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.pass_obj
def check(asked: Asked, folder: Path) -> int:
    """Say everything that is wrong with the bundle in DIR, and try it.

    Every variant that can run on this device is loaded as edged would load it, with this device's settings, and shown
    the goldens that apply to it; what a derived one is built into is thrown away, and the bundle is only read. Where
    there is a bundle.toml it is believed, and not the manifest that was packed before.

    Exit status: 0 the bundle is good, 1 it is not.
    """
    import asyncio

    from edged.ctl import check as checking
    from edged.runtimes.base import ENGINES
    from edged.system import hardware

    device = hardware.read(asked.settings.device.hardware_class)
    runtimes = {name: engine.version() for name, engine in ENGINES.items()}
    checked = asyncio.run(checking.check(folder.absolute(), device, runtimes, asked.settings.workers))
    if asked.as_json:
        output.document(checking.data(checked))
        return faults.NO if checked.verdict else faults.DONE
    for problem in checked.problems:
        output.line(f"problem: {problem}")
    for warning in checked.warnings:
        output.line(f"warning: {warning}")
    if checked.manifest:
        output.line(f"{checked.manifest.name} revision {checked.manifest.revision}")
        output.line()
        output.table(checking.table(checked))
        output.line()
        for note in checking.notes(checked):
            output.line(note)
    but = f", with {count(len(checked.warnings), 'warning')}" if checked.warnings else ""
    output.line(f"not good: {checked.verdict}" if checked.verdict else f"good{but}")
    return faults.NO if checked.verdict else faults.DONE


@bundle.command
@common
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.pass_obj
def pack(asked: Asked, folder: Path) -> None:
    """Hash the files of the bundle in DIR and write its manifest.json.

    Run it again after every change.
    """
    from edged.bundle.folder import pack as write_manifest
    from edged.bundle.manifest import MANIFEST_NAME, digest

    manifest = write_manifest(folder)
    total = sum(file.size for file in manifest.files)
    if asked.as_json:
        output.document(
            {
                "name": manifest.name,
                "revision": manifest.revision,
                "digest": digest(manifest),
                "size": total,
                "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
            }
        )
        return
    output.line(f"{folder / MANIFEST_NAME} is written")
    output.line()
    output.table(
        output.fields(
            [
                ("model", f"{manifest.name} revision {manifest.revision}"),
                ("digest", digest(manifest)),
                ("size", f"{size(total)} in {count(len(manifest.files), 'file')}"),
                *((("files" if not index else ""), file.path) for index, file in enumerate(manifest.files)),
            ]
        )
    )


@bundle.command("import")
@common
@click.argument("source", metavar="TRITON_DIR", type=_FOLDER)
@click.argument("target", metavar="TARGET", type=_NEW_FOLDER)
@click.option("--name", default="", metavar="NAME", help="The model's name in the bundle.  [default: its own]")
@click.option("--revision", type=REVISION, metavar="N", help="The version.  [default: the highest]")
@click.pass_obj
def import_triton(asked: Asked, source: Path, target: Path, name: str, revision: int | None) -> None:
    """Make a bundle in TARGET of a model in a Triton model repository.

    TRITON_DIR is the model's folder, the one with config.pbtxt; TARGET is new or empty. Only the configuration and the
    model file of one version are taken; what is left out is told.
    """
    from edged.bundle.triton import import_model

    imported = import_model(source, target, revision, name)
    made = imported.description
    if asked.as_json:
        output.document(
            {
                "name": made.name,
                "revision": made.revision,
                "folder": str(target),
                "files": [variant.file for variant in made.variants],
                "left_out": list(imported.notes),
            }
        )
        return
    tensors = [("input", spec) for spec in made.inputs] + [("output", spec) for spec in made.outputs]
    output.table(
        output.fields(
            [
                ("made", str(target)),
                ("model", f"{made.name} revision {made.revision}"),
                *((side, f"{spec.name} {spec.datatype} {list(spec.shape)}") for side, spec in tensors),
                *(("file", f"{variant.file}, for {variant.runtime}") for variant in made.variants),
                *(("left out", note) for note in imported.notes),
            ]
        )
    )
    output.line()
    output.line(f"next: add a golden to bundle.toml, then run `edgectl bundle check {target}`")
