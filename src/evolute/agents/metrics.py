"""What agents and their dispatcher tell Prometheus."""

from __future__ import annotations

from evolute.telemetry import counter, gauge, histogram

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
STOPS = counter("agents/stops", "agents that ended, by why", ("stop",))
MISTAKES = counter("agents/mistakes", "mistakes of the model, by kind", ("mistake",))
TOOL_CALLS = counter("agents/tool_calls", "calls of tools that were run", ("tool",))
TOOL_SECONDS = histogram("agents/tool_call_s", "time of a call of a tool", SECONDS, ("tool",))
REWRITES = counter("agents/history_rewrites", "histories that were rewritten")
INSIDE = gauge("agents/dispatch_inside", "trajectories in a stage now", ("stage",))
WAITING = gauge("agents/dispatch_waiting", "trajectories that wait for a stage now", ("stage",))
LIVE = gauge("agents/live_worlds", "worlds between the begin of their start and their close")
ENDED = counter("agents/dispatch_ended", "trajectories that ended, by how", ("ending",))
RETRIES = counter("agents/dispatch_retries", "stages that were tried again", ("stage",))
TIMEOUTS = counter("agents/dispatch_timeouts", "stages that hit their limit", ("stage",))
WAIT = histogram("agents/dispatch_wait_s", "time before a stage began", SECONDS, ("stage",))
SERVICE = histogram("agents/dispatch_service_s", "time within a stage", SECONDS, ("stage",))
