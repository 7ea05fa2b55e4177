"""As much of Ray as the trainer group asks for: actors on threads, which can be killed."""

import threading
import time
from types import SimpleNamespace


class ActorDied(Exception):
    pass


class TaskFailed(Exception):
    pass


class TooLate(Exception):
    pass


class Ref:
    """An answer to come."""

    def __init__(self):
        self.is_there, self.value, self.error = threading.Event(), None, None

    def settle(self, value=None, error=None):
        if not self.is_there.is_set():
            self.value, self.error = value, error
            self.is_there.set()


class Actor:
    """`handle.method.remote(...)`, on threads of its own."""

    def __init__(self, body):
        self._body, self._open, self.is_dead = body, set(), False

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *args: self._call(method, args))

    def _call(self, method, args):
        ref = Ref()
        if self.is_dead:
            ref.settle(error=ActorDied(f"the actor of {method} is dead"))
            return ref
        self._open.add(ref)
        threading.Thread(target=self._run, args=(ref, method, args), daemon=True).start()
        return ref

    def _run(self, ref, method, args):
        args = [arg.value if isinstance(arg, Ref) else arg for arg in args]
        try:
            ref.settle(getattr(self._body, method)(*args))
        except SystemExit:
            self.die()
        except Exception as error:
            ref.settle(error=TaskFailed(f"Traceback\n{type(error).__name__}: {error}"))
        self._open.discard(ref)

    def die(self):
        self.is_dead = True
        for ref in list(self._open):
            ref.settle(error=ActorDied("its process ended"))


class FakeRay:
    exceptions = SimpleNamespace(
        RayActorError=ActorDied, RayTaskError=TaskFailed, GetTimeoutError=TooLate
    )

    def put(self, value):
        ref = Ref()
        ref.settle(value)
        return ref

    def get(self, ref, timeout):
        assert timeout is not None, "no wait without a limit"
        if not ref.is_there.wait(timeout):
            raise TooLate
        if ref.error is not None:
            raise ref.error
        return ref.value

    def wait(self, refs, num_returns=1, timeout=None):
        assert timeout is not None, "no wait without a limit"
        until_s = time.monotonic() + timeout
        while True:
            ready = [ref for ref in refs if ref.is_there.is_set()]
            if ready or time.monotonic() >= until_s:
                return ready[:num_returns], [ref for ref in refs if ref not in ready[:num_returns]]
            time.sleep(0.005)


class FakeCluster:
    """`bodies` makes what an actor does of its class and arguments."""

    def __init__(self, bodies):
        self.ray, self.killed, self.actors = FakeRay(), [], []
        self._bodies = bodies

    def start_actor(self, cls, args, num_cpus, **options):
        self.actors.append(Actor(self._bodies(cls, args)))
        return self.actors[-1]

    def kill(self, actor):
        self.killed.append(actor)
        actor.die()
