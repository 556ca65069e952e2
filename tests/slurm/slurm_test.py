"""slurm/train.sbatch under a real Slurm (see local_slurm.py): what the ranks get, what becomes of each exit status, and a
small LISA that trains, is stopped, comes back and finishes."""
import json
import os
import shutil
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import toy_lisa  # noqa: E402
from local_slurm import LocalSlurm  # noqa: E402

PROGRAM = Path(os.environ["TESSERA_PROGRAM"])
ROOT = Path(os.environ["TESSERA_SOURCE_DIR"])
SCRIPT = ROOT / "slurm" / "train.sbatch"
RANKS = 2
# The script asks for what a GPU node has; here it gets two slots.
TOY_NODE = [f"--ntasks-per-node={RANKS}", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10"]


class TrainSbatch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.slurm = LocalSlurm(slots=RANKS)
        cls.slurm.__enter__()
        cls.addClassCleanup(cls.slurm.__exit__, None, None, None)

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="tessera-slurm-job-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def submit(self, *arguments, program):
        environment = {"TESSERA_ROOT": str(ROOT), "TESSERA_PROGRAM": str(program)}
        if os.geteuid() == 0:  # Open MPI wants to be told twice
            environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return self.slurm.submit(SCRIPT, *arguments, environment=environment, folder=self.folder,
                                 options=[*TOY_NODE, f"--output={self.folder}/job.log"])

    def submit_stand_in(self, *flags):
        return self.submit("--out", str(self.folder), *flags, program=Path(__file__).parent / "stand_in.py")

    def log(self):
        file = self.folder / "job.log"
        return file.read_text(errors="replace") if file.exists() else "(no log)"

    def ranks(self, start):
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob(f"{start}.*.json"))]

    def wait_for(self, condition, what, timeout_s=60.0):
        end = time.monotonic() + timeout_s
        while not condition():
            self.assertLess(time.monotonic(), end, f"no {what}; the job's log:\n{self.log()}")
            time.sleep(0.1)

    def test_starts_one_rank_a_task_and_hands_the_settings_on(self):
        ended = self.slurm.wait(self.submit_stand_in())
        self.assertEqual((ended["JobState"], ended["ExitCode"]), ("COMPLETED", "0:0"), self.log())
        ranks = self.ranks("first")
        self.assertEqual([rank["world"] for rank in ranks], [RANKS] * RANKS, self.log())
        self.assertEqual(ranks[0]["threads"], "1")
        self.assertEqual(ranks[0]["nccl_debug"], "WARN")
        self.assertEqual(ranks[0]["resume"], "auto")

    def test_a_resume_flag_of_the_user_is_left_alone(self):
        self.slurm.wait(self.submit_stand_in("--resume", "step-7"))
        self.assertEqual([rank["resume"] for rank in self.ranks("first")], ["step-7"] * RANKS, self.log())

    def test_a_signal_before_the_time_limit_checkpoints_requeues_and_resumes(self):
        job = self.submit_stand_in("--await_signal")
        self.wait_for(lambda: len(self.ranks("first")) == RANKS, "start of both ranks")
        self.slurm.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@300 does by itself
        ended = self.slurm.wait(job)
        self.assertEqual((ended["JobState"], ended["Restarts"]), ("COMPLETED", "1"), self.log())
        self.assertEqual([rank["restarts"] for rank in self.ranks("resumed")], ["1"] * RANKS, self.log())
        self.assertIn("back into the queue", self.log())

    def test_a_wrong_request_fails_once_and_is_not_requeued(self):
        ended = self.slurm.wait(self.submit_stand_in("--exit_status", "2"))
        self.assertEqual((ended["JobState"], ended["ExitCode"], ended["Restarts"]), ("FAILED", "2:0", "0"), self.log())

    def test_a_program_that_is_not_built_is_named_with_the_remedy(self):
        ended = self.slurm.wait(self.submit(program=self.folder / "nowhere"))
        self.assertEqual(ended["ExitCode"], "2:0", self.log())
        self.assertIn("./launch/build", self.log())

    def test_a_small_lisa_trains_on_two_ranks_is_stopped_requeued_and_finishes(self):
        last = 60
        flags = [*toy_lisa.make(self.folder, ROOT, PROGRAM), "--log_base_dir", self.folder, "--exp_name", "run",
                 "--max_steps", last, "--export_merged", "false"]
        run = self.folder / "run"
        job = self.submit(*map(str, flags), program=PROGRAM)
        self.wait_for(lambda: len(toy_lisa.steps(run)) >= 2, "second step")
        self.slurm.run("scancel", "--batch", "--signal=USR1", job)
        self.wait_for(lambda: "back into the queue" in self.log(), "requeue")
        stopped_after = toy_lisa.steps(run)[-1]
        self.assertLess(stopped_after, last, "the run was over before the signal; raise `last`")
        self.assertTrue((run / "checkpoints" / f"step-{stopped_after}").is_dir(), self.log())

        ended = self.slurm.wait(job)
        self.assertEqual((ended["JobState"], ended["ExitCode"], ended["Restarts"]), ("COMPLETED", "0:0", "1"), self.log())
        self.assertEqual(toy_lisa.steps(run), list(range(1, last + 1)), self.log())
        self.assertTrue((run / "config.toml").is_file())
        self.assertTrue((run / "checkpoints" / f"step-{last}").is_dir(), self.log())

    def test_a_request_that_train_refuses_ends_the_job_with_status_2(self):
        ended = self.slurm.wait(self.submit("--no_such_flag", "1", program=PROGRAM))
        self.assertEqual((ended["JobState"], ended["ExitCode"], ended["Restarts"]), ("FAILED", "2:0", "0"), self.log())
        self.assertIn("no_such_flag", self.log())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
