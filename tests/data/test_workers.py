"""A worker that is killed is noticed wherever it was, and the process ends with one sentence."""

import os
import subprocess
import sys
import textwrap

import pytest

CHILD = """
    import os, signal, sys, threading, time
    from pathlib import Path

    MOMENT = sys.argv[1]
    SIDE = 256 if MOMENT == "handing over" else 16


    def workers():
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        for child in " ".join(path.read_text() for path in children).split():
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                yield int(child)


    def kill():
        while len(found := list(workers())) < 2:
            time.sleep(0.001)
        os.kill(found[0], signal.SIGKILL)


    def read(argv=None):
        images = Numbers(64)
        if MOMENT == "starting":
            images.more_than_a_pipe_holds = bytes(10**6)
            threading.Thread(target=kill, daemon=True).start()
        else:  # all through pipes, as where shared memory is small, and nobody takes it
            pipeline._smallest_in_shared_memory = lambda needed: sys.maxsize
        batches = pipeline.training_batches(
            images, RECIPE, image_size=SIDE, batch_size=16, seed=0, start_step=0,
            total_steps=10**6, workers=2, process_index=0, process_count=1,
        )
        for number, _ in enumerate(batches):
            if number == 3:
                time.sleep(2)
                kill()


    if __name__ == "__main__":  # workers import this file, too
        from numbered_images import RECIPE, Numbers

        from repre_jax import command_line
        from repre_jax.data import pipeline

        command_line.TASKS["pretrain"] = lambda *given: read()
        sys.argv = ["repre-jax", "--config=quickstart"]
        command_line.run()
"""


@pytest.mark.parametrize(
    "moment", ["starting", pytest.param("handing over", marks=pytest.mark.slow)]
)
def test_a_killed_worker_ends_the_process_with_one_sentence(moment, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    environment = os.environ | {"PYTHONPATH": f"{os.getcwd()}:{os.getcwd()}/tests"}
    child = subprocess.run(
        [sys.executable, script, moment],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert child.returncode == 2, child.stderr
    said = [line for line in child.stderr.splitlines() if "resource_tracker" not in line]
    assert said[0].startswith("error: A process that reads images was killed"), child.stderr
    assert "Traceback" not in child.stderr
