"""An engine that starts a thread when it is imported, so that its template must not fork."""

import threading

from support.hostile_engine import open_session

threading.Thread(target=threading.Event().wait, daemon=True).start()

__all__ = ["open_session"]
