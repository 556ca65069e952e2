"""A Slurm of our own on this machine: munged, slurmctld and slurmd in a private folder, on free ports.

    with LocalSlurm() as slurm:
        job = slurm.submit("script.sbatch", "--flag", environment={...}, options=["--ntasks=2"])
        slurm.wait(job)

Needs the distribution's slurm-wlm and munge. Works as root and as an ordinary user; touches nothing of an installed
Slurm's own configuration. The daemons end with the scope, whatever happens in it.
"""
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

DAEMON_PATH = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}


def find(name):
    path = shutil.which(name, path=DAEMON_PATH)
    if not path:
        raise RuntimeError(f"{name} is not installed: run ./launch/setup --tests (packages slurm-wlm and munge)")
    return path


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class LocalSlurm:
    def __init__(self, slots=2, timeout_s=60.0):
        self.slots = slots
        self.timeout_s = timeout_s
        self.daemons = []

    def __enter__(self):
        # A short path: munge's socket must fit the 107 bytes of a Unix address.
        self.folder = Path(tempfile.mkdtemp(prefix="tslurm-", dir="/tmp"))
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        for name, daemon in reversed(self.daemons):
            # slurmd's job steps live in sessions of their own and end on its TERM; the group is for the daemon itself.
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if daemon.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(daemon.pid, sign)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        daemon.wait(timeout=15)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self):
        user = getpass.getuser()
        name = socket.gethostname().split(".")[0]
        controller_port, node_port = free_ports(2)
        munge_socket = self.folder / "munge" / "socket"
        for part in ("munge", "state", "spool"):
            (self.folder / part).mkdir(mode=0o755)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(f"""
ClusterName=tessera
SlurmctldHost={name}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={munge_socket},cred_expire=10
CredType=cred/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=1
MessageTimeout=30
KillWait=10
MailProg=/bin/true
ReturnToService=2
NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 CPUs={self.slots} State=UNKNOWN
PartitionName=all Nodes={name} Default=YES MaxTime=INFINITE State=UP
""", encoding="utf-8")
        # Nothing here uses control groups. From 23.11 on slurmd looks for them at its start all the same: 24.05 can be told
        # not to, and the plugin for v1 looks only when it is used.
        version = subprocess.run([find("slurmd"), "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]
        release = tuple(int(part) for part in version.split(".")[:2])
        if release >= (23, 11):
            plugin = "disabled" if release >= (24, 5) else "cgroup/v1"
            (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n", encoding="utf-8")
        self.environment = dict(os.environ, SLURM_CONF=str(self.folder / "slurm.conf"))
        self.environment["PATH"] = DAEMON_PATH

        self._daemon("munged", "--foreground", f"--key-file={key}", f"--socket={munge_socket}",
                     f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
                     f"--seed-file={self.folder}/munge/seed")
        self._until(munge_socket.exists, "munged's socket")
        self._daemon("slurmctld", "-D", "-i", "-f", str(self.folder / "slurm.conf"))
        self._until(lambda: "UP" in self._answer("scontrol", "ping"), "slurmctld's answer")
        self._daemon("slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))
        self._until(lambda: self._answer("sinfo", "--noheader", "--format=%t").strip() == "idle", "an idle node")

    def _daemon(self, program, *arguments):
        log = (self.folder / f"{program}.out").open("wb")
        daemon = subprocess.Popen([find(program), *arguments], stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT, env=self.environment, start_new_session=True)
        log.close()
        self.daemons.append((program, daemon))

    def _answer(self, program, *arguments):
        done = subprocess.run([find(program), *arguments], capture_output=True, text=True, env=self.environment,
                              timeout=60, check=False)
        return done.stdout

    def _until(self, condition, what):
        end = time.monotonic() + self.timeout_s
        while not condition():
            for name, daemon in self.daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended with {daemon.returncode} before {what}\n{self.logs()}")
            if time.monotonic() > end:
                raise RuntimeError(f"no {what} within {self.timeout_s} s\n{self.logs()}")
            time.sleep(0.1)

    def logs(self):
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out"), self.folder / "munge" / "log"]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files if file.exists())

    def run(self, *command):
        done = subprocess.run([find(command[0]), *command[1:]], capture_output=True, text=True, env=self.environment,
                              timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}\n{self.logs()}")
        return done.stdout

    def submit(self, script, *arguments, options=(), environment=None, folder=None):
        """Submits and returns the job's number. `environment` is added to what the job sees."""
        done = subprocess.run([find("sbatch"), "--parsable", *options, str(script), *arguments], capture_output=True,
                              text=True, env={**self.environment, **(environment or {})}, cwd=folder, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"sbatch: {done.stderr}\n{self.logs()}")
        return done.stdout.strip().split(";")[0]

    def fields(self, job):
        """What `scontrol show job` says, as a dictionary."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, timeout_s=120.0):
        """Waits until the job has ended for good (a requeued one has not) and returns its fields."""
        end = time.monotonic() + timeout_s
        while True:
            fields = self.fields(job)
            if fields["JobState"] in ENDED:
                return fields
            if time.monotonic() > end:
                raise RuntimeError(f"job {job} is still {fields['JobState']} ({fields.get('Reason')}) after {timeout_s} s\n{self.logs()}")
            time.sleep(0.2)
