# SPDX-License-Identifier: MIT
"""A private PulseAudio daemon with a null sink, for tests of recording: nothing of the user's own
server, settings or cookies is touched.

    with PulseServer() as server:
        player = server.play("clip.wav")             # paplay into the sink, in the background
        subprocess.run([..., "--source", "pulse:" + server.monitor], env=server.env)
        server.kill()                                # as if it had crashed
        server.start()                               # the same server again

What is played into the sink `server.sink` is heard on the source `server.monitor`, its default.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

PROGRAMS = ("pulseaudio", "pactl", "paplay", "parec")
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
START_SECONDS = 60  # a machine under sanitizers and with other tests beside


def missing():
    """The programs that are not installed, as text for a skip; empty if all are there."""
    return " ".join(p for p in PROGRAMS if shutil.which(p) is None)


def start_process(command, **kwargs):
    """A Popen that does not outlive the tests, not even where these are killed."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL,
                            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
                            **kwargs)


class PulseServer:
    """One daemon with one null sink of `rate` and `channels`; `extra` are more module lines."""

    def __init__(self, sink="test", rate=48000, channels=2, extra=()):
        self.sink = sink
        self.monitor = sink + ".monitor"
        self.modules = [
            f"module-null-sink sink_name={sink} rate={rate} channels={channels}"
            f" sink_properties=device.description=Test-{sink}", *extra]
        self.directory = tempfile.mkdtemp(prefix="ser-pulse-")
        os.chmod(self.directory, 0o700)
        self.env = dict(os.environ, HOME=self.directory, XDG_RUNTIME_DIR=self.directory,
                        XDG_CONFIG_HOME=self.directory, PULSE_RUNTIME_PATH=self.directory,
                        PULSE_STATE_PATH=self.directory, PULSE_COOKIE=self.directory + "/cookie",
                        PULSE_SERVER="unix:" + self.directory + "/native")
        for name in ("DISPLAY", "PULSE_SINK", "PULSE_SOURCE", "DBUS_SESSION_BUS_ADDRESS"):
            self.env.pop(name, None)
        self.daemon = None
        self.keeper = None
        self.players = []
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start the daemon (again) and wait until its sink is there."""
        socket = self.directory + "/native"
        for leftover in (socket, self.directory + "/pid"):
            if os.path.exists(leftover):
                os.unlink(leftover)
        # No realtime priority, shared memory or D-Bus: containers have none of them.
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit",
                   "--use-pid-file=no", "--realtime=no", "--high-priority=no", "--disable-shm=yes",
                   "--log-target=stderr", "--log-level=error",
                   "-L", f"module-native-protocol-unix auth-anonymous=1 socket={socket}"]
        for module in self.modules:
            command += ["-L", module]
        with open(self.directory + "/log", "ab") as log:
            self.daemon = start_process(command, env=self.env, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while self.sink not in self.pactl("list", "short", "sinks"):
            if self.daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError("PulseAudio does not start: " + self.log())
            time.sleep(0.05)
        self.keep_awake()

    def keep_awake(self):
        """Record a little all the time: a null sink to which nobody listens renders two seconds
        ahead, and the next recorder would hear nothing for so long. Real devices do not."""
        kept = self.directory + "/kept"
        with open(kept, "wb") as file:
            self.keeper = start_process(
                ["parec", "--raw", "--device=" + self.monitor, "--latency-msec=20", "--rate=4000",
                 "--channels=1", "--format=u8"], env=self.env, stdout=file,
                stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while os.path.getsize(kept) == 0:
            if self.keeper.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the null sink gives no sound: " + self.log())
            time.sleep(0.02)

    def log(self):
        """What the daemon has said so far."""
        with open(self.directory + "/log", encoding="utf-8", errors="replace") as file:
            return file.read()

    def pactl(self, *args):
        """Standard output of `pactl ARGS`; empty if there is no answer."""
        return subprocess.run(["pactl", *args], env=self.env, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False,
                              timeout=START_SECONDS).stdout

    def play(self, path):
        """paplay PATH into the sink, in the background: a Popen, which stop() ends."""
        player = start_process(["paplay", "--device=" + self.sink, path], env=self.env)
        self.players.append(player)
        return player

    def recorders(self):
        """How many streams record from the server at this moment, but keep_awake()."""
        return max(len(self.pactl("list", "short", "source-outputs").splitlines()) - 1, 0)

    def wait_for_recorder(self, count=1, seconds=START_SECONDS):
        """Wait until `count` streams record: what is played from now on is heard by them."""
        end = time.monotonic() + seconds
        while self.recorders() < count:
            if time.monotonic() > end:
                raise RuntimeError("nobody records: " + self.log())
            time.sleep(0.02)

    def kill(self, number=signal.SIGKILL):
        """End the daemon at once, as a crash would; start() brings it back."""
        self.daemon.send_signal(number)
        self.daemon.wait()
        if self.keeper is not None:
            self.keeper.kill()
            self.keeper.wait()

    def stop(self):
        """End players and daemon, and remove all files."""
        for client in [*self.players, self.keeper]:
            if client is not None:
                client.kill()
                client.wait()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
