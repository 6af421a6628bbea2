"""The table `[update]` of the settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edged.config.kinds import AbsolutePath, Table


class Update(Table, frozen=True, kw_only=True):
    """Where models come from, when, and at what cost."""

    repository: Annotated[
        str,
        Meta(
            pattern=r"^((https?|file)://?[^\s\x00-\x1f\x7f]{1,2040})?\Z",
            description="The repository that plans and models come from; without one, nothing is fetched.",
            extra={"allowed": '"" for none, or a URL of https, http or file', "reload": True},
        ),
    ] = ""
    root: Annotated[
        AbsolutePath,
        Meta(description="The root of trust that came with the image: what it did not sign for is never believed."),
    ] = "/usr/share/edged/trust/root.json"
    ca: Annotated[
        AbsolutePath,
        Meta(
            description="The authorities that may vouch for the repository's server, as PEM; without the file, those of"
            " the system.",
            extra={"reload": True},
        ),
    ] = "/var/lib/edged/identity/repository-ca.pem"
    poll_s: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * 86_400,
            description="How often the repository is asked for a plan, give or take a tenth.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 900.0
    rate_kib: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="The fastest that models are fetched; 0: as fast as the link allows.",
            extra={"unit": "KiB/s", "reload": True},
        ),
    ] = 0
    daily_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="The most that is fetched in a day (UTC), for a metered link; 0: no bound.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 0
    quota_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="The most that the store of models may take on its disk; 0: no bound but the reserve.",
            extra={"unit": "MiB"},
        ),
    ] = 0
    reserve_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="What fetching leaves free on the disk of the store.",
            extra={"unit": "MiB"},
        ),
    ] = 256
    window: Annotated[
        str,
        Meta(
            pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9])?\Z",
            description="The time of day in which models and the operating system may change, in local time.",
            extra={"allowed": '"" for any time, or as "02:30-05:00"', "reload": True},
        ),
    ] = ""
    hold_max_s: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * 86_400,
            description="How long an application may hold off a change of its model, in one lease.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 3600.0
    shadow_max_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="How long requests are copied to a new revision before it serves; those that came are judged.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0
