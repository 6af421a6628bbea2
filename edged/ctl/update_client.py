"""The calls of `edged.v1.Updates`, as edgectl asks them."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl.client import Client, Reply

_SERVICE = "edged.v1.Updates"

# Looking at a repository over a slow link takes its time; reading a whole store, and fetching it again, takes longer.
_PATIENT_S = 600.0
_STORE_S = 6 * 3600.0


class Updates:
    """Asks by a client that is connected to the admin socket. Every call raises EdgedError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def status(self) -> pb.UpdatesStatus:
        """How each model's update stands."""
        return self._ask("GetUpdates", pb.GetUpdatesRequest(), pb.UpdatesStatus)

    def watch(self) -> Iterator[pb.UpdatesStatus]:
        """The same, at once and after each change."""
        return self._client.follow(_SERVICE, "WatchUpdates", pb.WatchUpdatesRequest(), pb.UpdatesStatus)

    def look(self, from_dir: str, *, check_only: bool) -> pb.UpdatesStatus:
        """Has the repository looked at."""
        request = pb.LookNowRequest(from_dir=from_dir, check_only=check_only)
        return self._ask("LookNow", request, pb.LookNowResponse, _PATIENT_S).status

    def history(self, model: str, limit: int) -> pb.ListHistoryResponse:
        """What happened."""
        return self._ask("ListHistory", pb.ListHistoryRequest(model=model, limit=limit), pb.ListHistoryResponse)

    def explain(self, model: str) -> pb.ExplainResponse:
        """Why a revision serves."""
        return self._ask("Explain", pb.ExplainRequest(model=model), pb.ExplainResponse)

    def roll_back(self, model: str, revision: int) -> int:
        """Goes back; gives to which revision."""
        return self._ask("RollBack", pb.RollBackRequest(model=model, revision=revision), pb.RollBackResponse).revision

    def pin(self, model: str, revision: int) -> int:
        """Pins a model; gives to which revision."""
        return self._ask("Pin", pb.PinRequest(model=model, revision=revision), pb.PinResponse).revision

    def unpin(self, model: str) -> None:
        """Lets the plan decide again."""
        self._ask("Unpin", pb.UnpinRequest(model=model), pb.UnpinResponse)

    def quarantined(self) -> pb.ListQuarantineResponse:
        """What is not tried again."""
        return self._ask("ListQuarantine", pb.ListQuarantineRequest(), pb.ListQuarantineResponse)

    def release(self, name: str) -> pb.ReleaseQuarantineResponse:
        """Lets it be tried again."""
        return self._ask("ReleaseQuarantine", pb.ReleaseQuarantineRequest(name=name), pb.ReleaseQuarantineResponse)

    def store(self, *, verify: bool, repair: bool) -> pb.Store:
        """What the store holds."""
        return self._ask("GetStore", pb.GetStoreRequest(verify=verify, repair=repair), pb.Store, _STORE_S)

    def _ask(self, method: str, request: Message, reply: type[Reply], timeout_s: float | None = None) -> Reply:
        return self._client.ask(_SERVICE, method, request, reply, timeout_s)
