"""A sandbox for programs that the tests wrote themselves: a plain subprocess."""

import asyncio
import sys

from evolute.envs.sandbox.contract import Ending, RunReport, SandboxFeatures


class OwnPrograms:
    """Implements `Sandbox`; counts what it ran."""

    features = SandboxFeatures(isolates=False, seccomp=False)

    def __init__(self):
        self.scripts = []

    async def run(self, script, limits):
        self.scripts.append(script)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script.source,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), max(limits.seconds, 20))
        except TimeoutError:
            process.kill()
            await process.communicate()
            return RunReport(Ending.TIMEOUT, "", "", limits.seconds)
        return RunReport(Ending.EXITED, out.decode(), err.decode(), 0.0, process.returncode)
