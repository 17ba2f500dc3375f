"""Sending a journal beside the training, so that a slow store does not hold it up."""

from __future__ import annotations

import threading
import time

from reid.tracking.deliver import Delivery, deliver
from reid.tracking.journal import Journal
from reid.tracking.store import Store

# Catching up after an outage goes on in slices, between the epochs.
_BUDGET_S = 5.0
# What a run may wait for its store in all: this long, a tenth of its own time, and as long again at its end.
# A store of this machine is waited for while another process makes its tables.
_ALLOWANCE_S, _OWN_ALLOWANCE_S = 10.0, 180.0
_SHARE = 0.1


class Courier:
    """Sends the journal of one run to its store, one attempt at a time, each in a thread.

    An attempt is waited for as long as the run may wait at all, and goes on by itself after that.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store, self._journal = store, journal
        self._allowance = _OWN_ALLOWANCE_S if store.uri.startswith("sqlite") else _ALLOWANCE_S
        self._began = time.monotonic()
        self._waited = 0.0
        self._attempt: _Attempt | None = None

    def send(self, last: bool) -> tuple[Delivery, float] | None:
        """Send what there is; what came of it and its seconds, or None where an attempt is still under way.

        last: the run ends, so all is sent.
        """
        started = time.monotonic()
        deadline = (
            started + self._allowance * (2 if last else 1) + _SHARE * (started - self._began) - self._waited
        )
        refused: list[str] = []
        try:
            if self._attempt is not None:
                if not self._attempt.ends_before(deadline):
                    return None
                earlier, self._attempt = self._attempt, None
                if earlier.delivery.error is not None and not last:
                    return earlier.delivery, earlier.seconds
                refused = earlier.delivery.refused
            attempt = _Attempt(self._store, self._journal, None if last else _BUDGET_S)
            if not attempt.ends_before(deadline):
                self._attempt = attempt
                return None
            attempt.delivery.refused[:0] = refused
            return attempt.delivery, attempt.seconds
        finally:
            self._waited += time.monotonic() - started


class _Attempt:
    def __init__(self, store: Store, journal: Journal, budget_s: float | None) -> None:
        self.delivery, self.seconds = Delivery(), 0.0

        def send() -> None:
            started = time.monotonic()
            self.delivery = deliver(store, journal, budget_s)
            self.seconds = time.monotonic() - started

        # A daemon: what hangs in a request does not keep the process.
        self._thread = threading.Thread(target=send, daemon=True, name="tracking")
        try:
            self._thread.start()
        except RuntimeError:  # some Pythons start none while they shut down, which is when a sweep is closed
            send()

    def ends_before(self, deadline: float) -> bool:
        """Wait for the end until `deadline`, of time.monotonic()."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()
