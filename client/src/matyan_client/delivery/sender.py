"""The sender: one thread that takes a journal to the server until all is acknowledged.

It keeps a window of frames in flight, reconnects for ever with jittered back-off, and
sends again what was not acknowledged, with the same positions. It never touches the
thread that trains. Nothing it does raises: what goes wrong is said once on stderr and
stands in `Progress`.

Design note: docs/subsystems/sdk.md#delivery
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from matyan_client import console
from matyan_client.delivery.channels import Ack, Channel, ChannelClosedError
from matyan_client.delivery.frames import MAX_POINTS, Frame, FrameCutter
from matyan_client.delivery.gateway import Gateway, GatewayUnreachableError
from matyan_client.journal.ledger import Cut, Ledger
from matyan_wire.frames import WINDOW_FRAMES

WINDOW_BYTES: Final = 8 * 1024 * 1024
ACK_TIMEOUT_S: Final = 60.0
"""No answer for so long: the connection is taken for dead and made anew. A gateway
holds its answers for 40 s while its event log fails."""

SEND_AT_POINTS: Final = MAX_POINTS // 2
"""So many points are sent without waiting for the interval to pass."""

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0
REFUSED_PAUSE_S: Final = 10.0

_HISTORY: Final = 10_000


_START: Final = Cut(1, 0, 0, 0)


@dataclass(frozen=True)
class Progress:
    """How far delivery is; a snapshot.

    Attributes:
        sent: Points handed to a connection at least once.
        acknowledged: Points the server's event log holds.
        refused: Points and events the server refused for good, by its reason.
        last: Where the last acknowledged frame ends.
        connected: Whether a connection is open.
        problem: Why there is none, or what the server refused last; None when well.
        address: Where it is sent to.
    """

    sent: int = 0
    acknowledged: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    last: Cut = _START
    connected: bool = False
    problem: str | None = None
    address: str = ""


class Sender:
    """Delivers one journal from a thread of its own.

    Args:
        run_id: The run.
        cutter: Cuts the journal; used by the thread alone from now on.
        ledger: The journal's ledger; likewise.
        gateway: Where to send; likewise.
        interval_s: How long points may wait to be sent together.
        on_tick: Called by the thread several times a second, e.g. to allocate ahead.
        on_acknowledged: Called by the thread with the end of what is acknowledged.
        quiet: Whether to keep connection problems to `Progress` alone.
        expecting: Whether more events will come although the run is finishing.
    """

    def __init__(  # noqa: PLR0913 - what it works on, and when
        self,
        *,
        run_id: str,
        cutter: FrameCutter,
        ledger: Ledger,
        gateway: Gateway,
        interval_s: float,
        on_tick: Callable[[], None] = lambda: None,
        on_acknowledged: Callable[[Cut], None] = lambda _: None,
        quiet: bool = False,
        expecting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run_id = run_id
        self._expecting = expecting
        self._cutter = cutter
        self._ledger = ledger
        self._gateway = gateway
        self._interval_s = interval_s
        self._on_tick = on_tick
        self._on_acknowledged = on_acknowledged
        self._quiet = quiet
        self._window: deque[Frame] = deque()
        self._window_bytes = 0
        self._sent_until = 0
        self._channel: Channel | None = None
        self._failures = 0
        self._cut_at = 0.0
        self._answered_at = 0.0
        self._acknowledged_at = 0.0
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._flushing = 0
        self._stopping = False
        self._finishing = False
        self._progress = Progress(last=ledger.acked)
        self._history: deque[tuple[Cut, int]] = deque(maxlen=_HISTORY)
        self._thread = threading.Thread(
            target=self._run, name=f"matyan-sender-{run_id}", daemon=True
        )

    # The owner's side.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def progress(self) -> Progress:
        """How far delivery is."""
        with self._changed:
            return replace(self._progress, refused=dict(self._progress.refused))

    def points_through(self, *, epoch: int, seq: int) -> int:
        """Return how many points the frames up to that position are known to hold."""
        with self._changed:
            known = [count for cut, count in self._history if cut[:2] <= (epoch, seq)]
        return known[-1] if known else 0

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a connection is open or has been refused; return whether open."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._progress.connected or self._progress.problem is not None,
                timeout_s,
            )
            return self._progress.connected

    def flush(self, *, points: int, events: int, timeout_s: float) -> bool:
        """Wait until all before those indexes is acknowledged; return whether it is."""

        def reached() -> bool:
            last = self._progress.last
            return last.points >= points and last.events >= events

        return self._wait(reached, timeout_s)

    def finish(
        self,
        *,
        timeout_s: float,
        patience_s: float,
        hopeless: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Deliver the rest and end the thread; return whether all was acknowledged.

        Args:
            timeout_s: The whole budget.
            patience_s: How much of it may go by without any connection.
            hopeless: Gives up earlier when it is true; asked several times a second.
        """
        deadline = time.monotonic() + timeout_s
        self._finishing = True
        give_up = time.monotonic() + patience_s

        def over() -> bool:
            lost = not self._progress.connected and time.monotonic() > give_up
            return not self._thread.is_alive() or lost or hopeless()

        self._wait(over, timeout_s)
        done = not self._thread.is_alive() and not self._stopping
        self.stop(timeout_s=max(0.5, deadline - time.monotonic()) if not done else 0)
        return done

    def drain(
        self,
        *,
        stall_s: float,
        abandoned: Callable[[], bool],
        moved_at: Callable[[], float] = lambda: 0.0,
    ) -> bool:
        """Deliver the rest, however long it takes; return whether all was acknowledged.

        Args:
            stall_s: Give up when nothing has been acknowledged for so long.
            abandoned: Give up when this is true.
            moved_at: When something else last got on, monotonic: counts as well.
        """
        self._finishing = True

        def over() -> bool:
            last = max(self._acknowledged_at, moved_at())
            stalled = time.monotonic() - last > stall_s
            return not self._thread.is_alive() or stalled or abandoned()

        self._acknowledged_at = time.monotonic()
        self._wait(over, math.inf)
        done = not self._thread.is_alive()
        self.stop(timeout_s=1.0)
        return done

    def stop(self, *, timeout_s: float) -> bool:
        """End the thread whatever is left; return whether it has ended."""
        self._stopping = True
        self._wake.set()
        channel = self._channel
        if channel is not None and self._thread.is_alive():
            channel.abort()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Let go of a parent's connection in a forked child, without closing it."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.abandon()

    def _wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._flushing += 1
            try:
                while not done():
                    self._wake.set()
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._thread.is_alive():
                        return done()
                    self._changed.wait(min(left, 0.1))
            finally:
                self._flushing -= 1
        return True

    # The thread's side.

    def _run(self) -> None:
        while not self._stopping and not self._drained():
            try:
                self._connect()
                self._deliver()
            except GatewayUnreachableError as error:
                self._lost(str(error), refused=error.refused)
            except ChannelClosedError as error:
                self._lost(f"{self._gateway.address}: {error}; reconnecting.")
            except Exception as error:  # noqa: BLE001 - delivery must not end by itself
                self._lost(
                    f"delivery of run {self._run_id} failed: {error!r}; retrying."
                )
        self._hang_up()
        with self._changed:
            self._changed.notify_all()

    def _drained(self) -> bool:
        return (
            self._finishing
            and not self._window
            and self._ledger.planned is None
            and not self._expecting()  # asked first: it ends with one more event
            and self._cutter.pending() == 0
        )

    def _connect(self) -> None:
        self._channel = self._gateway.open(self._run_id)
        self._sent_until = self._ledger.acked.seq
        self._answered_at = time.monotonic()
        if self._failures and not self._quiet:
            console.forget(self._outage_key())
        self._update(connected=True, problem=None, address=str(self._gateway.address))

    def _deliver(self) -> None:
        """Send and receive over the open channel until it breaks or all is done."""
        channel = self._channel
        assert channel is not None  # noqa: S101 - for the type checker
        for frame in self._window:
            self._transmit(channel, frame)
        while not self._stopping and not self._drained():
            self._on_tick()
            self._fill(channel)
            if self._window:
                self._receive(channel)
            else:
                self._answered_at = time.monotonic()
                self._wake.wait(self._interval_s)
                self._wake.clear()
                self._poll(channel)

    def _poll(self, channel: Channel) -> None:
        # A server that hung up while nothing was in flight is noticed here.
        ack = channel.receive(timeout_s=0)
        if ack is not None:
            self._acknowledge(ack)

    def _fill(self, channel: Channel) -> None:
        while len(self._window) < WINDOW_FRAMES and self._window_bytes < WINDOW_BYTES:
            if not self._due() or self._stopping:
                return
            frame = self._cutter.next()
            self._cut_at = time.monotonic()
            if frame is None:
                return
            self._window.append(frame)
            self._window_bytes += len(frame.encoded)
            self._transmit(channel, frame)

    def _due(self) -> bool:
        if self._ledger.planned is not None:
            return True
        pending = self._cutter.pending()
        if not pending:
            return False
        return (
            pending >= SEND_AT_POINTS
            or self._flushing > 0
            or self._finishing
            or time.monotonic() - self._cut_at >= self._interval_s
        )

    def _transmit(self, channel: Channel, frame: Frame) -> None:
        channel.send(frame)
        if frame.cut.seq > self._sent_until:
            self._sent_until = frame.cut.seq
            with self._changed:
                sent = self._progress.acknowledged + sum(
                    other.points for other in self._window
                )
                if sent > self._progress.sent:
                    self._progress = replace(self._progress, sent=sent)

    def _receive(self, channel: Channel) -> None:
        ack = channel.receive(timeout_s=min(self._interval_s, 0.05))
        while ack is not None:
            self._acknowledge(ack)
            ack = channel.receive(timeout_s=0) if self._window else None
        if time.monotonic() - self._answered_at > ACK_TIMEOUT_S:
            msg = f"no acknowledgement for {ACK_TIMEOUT_S:.0f} s"
            raise ChannelClosedError(msg)

    def _acknowledge(self, ack: Ack) -> None:
        self._answered_at = time.monotonic()
        if ack.retry:
            msg = f"the server asks to wait ({ack.error})"
            raise ChannelClosedError(msg)
        if not self._window:
            return
        oldest = self._window[0].cut.seq
        seq = oldest if ack.seq is None else ack.seq
        if seq < oldest:
            return  # an answer already seen
        if seq > oldest:
            msg = f"frame {seq} was answered before frame {oldest}"
            raise ChannelClosedError(msg)
        self._acknowledged_at = self._answered_at
        frame = self._window.popleft()
        self._window_bytes -= len(frame.encoded)
        self._failures = 0
        self._ledger.acknowledge(frame.cut)
        self._account(frame, ack)
        self._on_acknowledged(frame.cut)

    def _account(self, frame: Frame, ack: Ack) -> None:
        with self._changed:
            before = self._progress
            refused = dict(before.refused)
            acknowledged = before.acknowledged
            if ack.error is None:
                acknowledged += frame.points
                lost = dict(ack.left_out)
            else:
                reason = f"refused by the server: {ack.error}"
                lost = {reason: frame.points + frame.events}
            for reason, count in lost.items():
                refused[reason] = refused.get(reason, 0) + count
            self._progress = replace(
                before,
                acknowledged=acknowledged,
                refused=refused,
                last=frame.cut,
                problem=ack.error or before.problem,
            )
            self._history.append((frame.cut, acknowledged))
            self._changed.notify_all()
        for reason, count in ack.left_out:
            console.warn(
                f"{self._gateway.address} does not get {count} item(s) of run "
                f"{self._run_id}: {reason}.",
                key=f"left out {self._run_id} {reason}",
            )
        if ack.error is not None:
            console.warn(
                f"{self._gateway.address} refused a frame of run {self._run_id} "
                f"({frame.points} points, {frame.events} events): {ack.error}",
                key=f"refused {self._run_id}",
            )

    def _update(self, *, connected: bool, problem: str | None, address: str) -> None:
        with self._changed:
            self._progress = replace(
                self._progress, connected=connected, problem=problem, address=address
            )
            self._changed.notify_all()

    def _outage_key(self) -> str:
        return f"outage {self._gateway.address}"

    def _lost(self, problem: str, *, refused: bool = False) -> None:
        """Note a lost connection and wait before the next try."""
        self._hang_up()
        if self._stopping:
            return
        address = str(self._gateway.address)
        self._update(connected=False, problem=problem, address=address)
        self._failures += 1
        if not self._quiet and (refused or self._failures >= 2 or not self._last_seq()):
            console.warn(
                f"{problem} Training goes on; data is kept and sent later.",
                key=self._outage_key(),
            )
        self._pause(refused=refused)

    def _last_seq(self) -> int:
        return self._progress.last.seq

    def _pause(self, *, refused: bool) -> None:
        longest = FIRST_PAUSE_S * 1.6 ** min(self._failures, 20)
        pause = min(longest, LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311
        if refused:
            pause = max(pause, REFUSED_PAUSE_S)
        deadline = time.monotonic() + pause
        while not self._stopping and time.monotonic() < deadline:
            self._on_tick()
            if self._finishing and self._drained():
                return
            self._stop_aware_sleep(min(0.1, deadline - time.monotonic()))

    def _stop_aware_sleep(self, duration_s: float) -> None:
        if self._flushing:  # `_wake` is set all the time then
            time.sleep(max(0.0, min(duration_s, 0.05)))
        else:
            self._wake.wait(max(0.0, duration_s))
            self._wake.clear()

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            channel.close()
        except Exception as error:  # noqa: BLE001 - it is over either way
            self._progress = replace(self._progress, problem=repr(error))
        with self._changed:
            self._progress = replace(self._progress, connected=False)
            self._changed.notify_all()
