# SPDX-License-Identifier: MIT
"""Recording from real parts: a private PulseAudio daemon with a null sink, and ALSA with its
plug-ins and a card of our own (fake_card.c).

    test_capture.py RECORD_RAW FAKE_CARD [BACKEND...]       # what the build has: pulse, alsa
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import wave

import numpy

import pulse_server
from pulse_server import PulseServer

RECORD_RAW, FAKE_CARD = map(os.path.abspath, sys.argv[1:3])
BACKENDS = sys.argv[3:]
TIMEOUT = 120

root = tempfile.mkdtemp(prefix="ser-capture-")


def tearDownModule():
    shutil.rmtree(root, ignore_errors=True)


def path(name):
    return os.path.join(root, name)


def write_wav(name, samples, rate):
    """`samples` [frames][channels] as 16-bit WAV; the path."""
    with wave.open(path(name), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path(name)


def noise(frames, channels, seed=1):
    """Noise is like itself at one delay only."""
    return numpy.random.default_rng(seed).integers(-12000, 12000, (frames, channels))


def with_lead(clip):
    """100 ms of silence first: a server may cut the first milliseconds that it is given."""
    return numpy.concatenate([numpy.zeros((4800, clip.shape[1]), clip.dtype), clip])


def delay_of(clip, heard):
    """Where in `heard` [frames] `clip` begins: the peak of the cross-correlation, by FFT."""
    size = 1 << int(len(clip) + len(heard)).bit_length()
    spectrum = numpy.fft.rfft(heard, size) * numpy.conj(numpy.fft.rfft(clip, size))
    return int(numpy.argmax(numpy.fft.irfft(spectrum, size)[:len(heard)]))


class Recording:
    """A run of record_raw; what it said on standard error is in the attributes."""

    def __init__(self, args, env=None, stdin=subprocess.DEVNULL):
        # files: a pipe that nobody reads would hold the recorder up
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.process = subprocess.Popen([RECORD_RAW, *args], env=env, stdin=stdin,
                                        stdout=self.out, stderr=self.err)

    @staticmethod
    def content(file):
        file.seek(0)
        with file:
            return file.read()

    def finish(self):
        """Wait for the end; self for chaining."""
        try:
            self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()
            out, self.error = self.content(self.out), self.content(self.err).decode()
        self.status = self.process.returncode
        self.lines = self.error.splitlines()
        self.rate = self.channels = 0
        for line in self.lines:
            word, *rest = line.split(" ", 4)
            if word == "open":
                self.rate, self.channels, self.source = int(rest[0]), int(rest[1]), rest[2]
                self.description = rest[3]
            elif word == "losses":
                self.overruns, self.lost_frames = int(rest[0]), int(rest[1])
            elif word == "lost":
                self.reason = line[len("lost "):]
        self.samples = numpy.frombuffer(out, "<i2")
        if self.channels > 0:
            self.samples = self.samples.reshape(-1, self.channels)
        return self


def record(*args, env=None):
    return Recording(args, env).finish()


@unittest.skipUnless("pulse" in BACKENDS, "a build without libpulse")
class Pulse(unittest.TestCase):
    """Against one daemon; the tests of its death are below."""

    @classmethod
    def setUpClass(cls):
        cls.server = PulseServer()
        cls.addClassCleanup(cls.server.stop)
        cls.source = "pulse:" + cls.server.monitor

    def play_and_record(self, clip, seconds, *args):
        recording = Recording(["-s", str(seconds), *args, self.source], self.server.env)
        self.server.wait_for_recorder()
        self.server.play(clip)
        return recording.finish()

    def test_same_format_is_bit_exact(self):
        clip = noise(48000, 2)
        heard = self.play_and_record(write_wav("same.wav", with_lead(clip), 48000), 2.5)
        self.assertEqual((heard.status, heard.rate, heard.channels), (0, 48000, 2), heard.error)
        self.assertEqual(heard.source, self.source)
        self.assertEqual(heard.description, "Monitor of Test-test")
        self.assertEqual((heard.overruns, heard.lost_frames), (0, 0))
        at = delay_of(clip[:, 0], heard.samples[:, 0])
        numpy.testing.assert_array_equal(heard.samples[at:at + len(clip)], clip)
        self.assertFalse(heard.samples[:at].any())
        self.assertFalse(heard.samples[at + len(clip):].any())

    def test_gain_and_gaps_after_resampling(self):
        clip = noise(44100, 1)
        # below the band edge of any resampler on the way
        clip = numpy.convolve(clip[:, 0], numpy.hanning(16) / 8, "same")
        name = write_wav("other.wav", with_lead(clip[:, None]), 44100)
        heard = self.play_and_record(name, 2.5, "-r", "44100", "-c", "1")
        self.assertEqual((heard.rate, heard.channels), (44100, 1), heard.error)
        at = delay_of(clip, heard.samples[:, 0])
        got = heard.samples[at:at + len(clip), 0].astype(float)
        # to 48 kHz and back, and less than a sample of delay: alike in each 50 ms, and as loud
        for start in range(2205, len(clip) - 4410, 2205):
            a, b = clip[start:start + 2205], got[start:start + 2205]
            like = numpy.dot(a, b) / numpy.sqrt(numpy.dot(a, a) * numpy.dot(b, b))
            self.assertGreater(like, 0.95, f"frame {start}")
            loudness = numpy.sqrt(numpy.dot(b, b) / numpy.dot(a, a))
            self.assertAlmostEqual(loudness, 1.0, delta=0.05, msg=f"frame {start}")

    def test_default_is_announced_as_no_microphone(self):
        heard = record("-s", "0.2", env=self.server.env)
        self.assertEqual((heard.status, heard.source), (0, self.source), heard.error)
        self.assertIn("knows no microphone: recording what the computer plays", heard.error)
        named = record("-s", "0.2", self.source, env=self.server.env)
        self.assertNotIn("microphone", named.error)

    def test_muted_source_is_announced(self):
        self.server.pactl("set-source-mute", self.server.monitor, "1")
        self.addCleanup(self.server.pactl, "set-source-mute", self.server.monitor, "0")
        heard = record("-s", "0.2", self.source, env=self.server.env)
        self.assertIn(f"is muted: 'pactl set-source-mute {self.server.monitor} 0'", heard.error)

    def test_list(self):
        listed = subprocess.run([RECORD_RAW, "-l"], env=self.server.env, capture_output=True,
                                text=True, check=True).stdout
        self.assertIn(self.source + "\tMonitor of Test-test\tdefault\tmonitor\n", listed)
        self.assertEqual(listed.count("\tdefault\t"), 1, listed)

    def test_unknown_source(self):
        heard = record("pulse:nosuch", env=self.server.env)
        self.assertEqual((heard.status, len(heard.samples)), (4, 0))
        self.assertIn("--source pulse:nosuch: PulseAudio has no such source", heard.error)
        self.assertIn("--list-devices", heard.error)

    def test_more_than_two_channels_become_two(self):
        module = self.server.pactl("load-module", "module-null-sink", "sink_name=many",
                                   "channels=6")
        self.addCleanup(self.server.pactl, "unload-module", module.strip())
        heard = record("-s", "0.2", "pulse:many.monitor", env=self.server.env)
        self.assertEqual((heard.status, heard.channels), (0, 2), heard.error)

    def test_removed_source(self):
        """PulseAudio moves its streams to another one, where there is one."""
        module = self.server.pactl("load-module", "module-null-sink", "sink_name=usb").strip()
        recording = Recording(["-s", "2", "pulse:usb.monitor"], self.server.env)
        self.server.wait_for_recorder()
        self.server.pactl("unload-module", module)
        heard = recording.finish()
        self.assertEqual((heard.status, heard.source), (0, "pulse:usb.monitor"), heard.error)
        self.assertIn("moved the recording to " + self.server.monitor, heard.error)

    def test_own_default(self):
        """PULSE_SOURCE is a client's default, for libpulse's own programs too."""
        module = self.server.pactl("load-module", "module-null-sink", "sink_name=own").strip()
        self.addCleanup(self.server.pactl, "unload-module", module)
        env = dict(self.server.env, PULSE_SOURCE="own.monitor")
        heard = record("-s", "0.2", env=env)
        self.assertEqual((heard.status, heard.source), (0, "pulse:own.monitor"), heard.error)
        listed = subprocess.run([RECORD_RAW, "-l"], env=env, capture_output=True, text=True,
                                check=True).stdout
        self.assertRegex(listed, "pulse:own.monitor\t[^\t]*\tdefault\t")

    def test_impossible_rate(self):
        heard = record("-r", "768001", self.source, env=self.server.env)
        self.assertEqual(heard.status, 2, heard.error)
        self.assertRegex(heard.error, r"PulseAudio takes at most \d+ Hz, not 768001")

    def test_other_channels_are_told(self):
        heard = record("-s", "0.1", "-c", "5", self.source, env=self.server.env)
        self.assertEqual((heard.status, heard.channels), (0, 2), heard.error)
        self.assertIn("2 channels, not 5", heard.error)

    def test_suspended_and_moved_goes_on(self):
        module = self.server.pactl("load-module", "module-null-sink", "sink_name=b", "rate=44100")
        self.addCleanup(self.server.pactl, "unload-module", module.strip())
        recording = Recording(["-s", "2.5", self.source], self.server.env)
        self.server.wait_for_recorder()
        self.server.pactl("suspend-source", self.server.monitor, "1")
        time.sleep(0.3)
        self.server.pactl("suspend-source", self.server.monitor, "0")
        outputs = self.server.pactl("list", "short", "source-outputs").splitlines()
        # the keeper of the null sink came first
        self.server.pactl("move-source-output", outputs[-1].split("\t")[0], "b.monitor")
        heard = recording.finish()
        self.assertEqual((heard.status, heard.rate, len(heard.samples)), (0, 48000, 2.5 * 48000),
                         heard.error)

    def test_stopped_too_long(self):
        """MI3: the server drops what waits for a stopped process beyond some megabytes."""
        recording = Recording(["-r", "384000", self.source], self.server.env)
        self.server.wait_for_recorder()
        begin = time.monotonic()
        time.sleep(1)
        recording.process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        recording.process.send_signal(signal.SIGCONT)
        time.sleep(2.5)
        recording.process.send_signal(signal.SIGINT)
        seconds = time.monotonic() - begin
        heard = recording.finish()
        self.assertEqual((heard.status, heard.overruns), (0, 1), heard.error)
        self.assertAlmostEqual((len(heard.samples) + heard.lost_frames) / 384000, seconds, delta=1)

    def test_interrupt_ends_it_at_once(self):
        recording = Recording([self.source], self.server.env)
        self.server.wait_for_recorder()
        time.sleep(0.3)
        start = time.monotonic()
        recording.process.send_signal(signal.SIGINT)
        heard = recording.finish()
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual(heard.status, 0, heard.error)
        self.assertGreater(len(heard.samples), 4800)


@unittest.skipUnless("pulse" in BACKENDS, "a build without libpulse")
class PulseDies(unittest.TestCase):
    def setUp(self):
        self.server = PulseServer()
        self.addCleanup(self.server.stop)
        self.clip = noise(48000, 2, seed=3)

    def start(self, *args):
        recording = Recording([*args, "pulse:" + self.server.monitor], self.server.env)
        self.server.wait_for_recorder()
        self.server.play(write_wav("short.wav", with_lead(self.clip), 48000)).wait(TIMEOUT)
        return recording

    def test_killed(self):
        """MI2: what came before is kept."""
        recording = self.start()
        self.server.kill()
        heard = recording.finish()
        self.assertEqual(heard.status, 6, heard.error)
        self.assertIn("the connection to PulseAudio is lost (Connection terminated)", heard.reason)
        at = delay_of(self.clip[:, 0], heard.samples[:, 0])
        # paplay may end while the last blocks are still to be heard
        kept = heard.samples[at:at + len(self.clip)]
        self.assertGreater(len(kept), 0.7 * len(self.clip))
        numpy.testing.assert_array_equal(kept, self.clip[:len(kept)])

    def test_last_source_removed(self):
        recording = self.start()
        self.server.pactl("unload-module", "module-null-sink")
        heard = recording.finish()
        self.assertEqual((heard.status, heard.reason), (6, "the source has been removed"))
        self.assertGreater(len(heard.samples), 24000)

    def test_comes_back(self):
        recording = self.start("-s", "5", "-a", "60")
        self.server.kill()
        self.server.start()
        self.server.wait_for_recorder()
        again = noise(48000, 2, seed=4)
        self.server.play(write_wav("again.wav", with_lead(again), 48000))
        heard = recording.finish()
        self.assertEqual(heard.status, 0, heard.error)
        self.assertEqual(heard.lines.count("reopened"), 1)
        at = delay_of(again[:, 0], heard.samples[:, 0])
        numpy.testing.assert_array_equal(heard.samples[at:at + len(again)], again)

    def test_absent(self):
        """MI1: what was tried, and what to do."""
        self.server.kill()
        env = dict(self.server.env, ALSA_CONFIG_PATH="/dev/null")
        heard = record(env=env)
        self.assertEqual(heard.status, 4)
        self.assertIn("no microphone: tried PulseAudio (Connection refused) and ALSA (",
                      heard.error)
        for advice in ("start PulseAudio or PipeWire", "--list-devices", "--source file:clip.wav",
                       "--source -"):
            self.assertIn(advice, heard.error)
        heard = record("pulse", env=env)
        self.assertEqual(heard.status, 4)
        self.assertIn("--source pulse: Connection refused", heard.error)
        listed = subprocess.run([RECORD_RAW, "-l"], env=env, capture_output=True, text=True,
                                check=True)
        self.assertEqual(listed.stdout, "")
        self.assertIn("none: PulseAudio (Connection refused) and ALSA (", listed.stderr)


@unittest.skipUnless("pulse" in BACKENDS, "a build without libpulse")
@unittest.skipIf(os.geteuid() == 0, "no client of root starts a server")
class PulseIsNotStarted(unittest.TestCase):
    def test_no_autospawn(self):
        """A client may be told to start a server that is not there. A recorder must not."""
        with open(path("daemon"), "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\ntouch {path('spawned')}\n")
        os.chmod(path("daemon"), 0o755)
        with open(path("client.conf"), "w", encoding="utf-8") as file:
            file.write(f"autospawn = yes\ndaemon-binary = {path('daemon')}\n")
        env = dict(os.environ, PULSE_CLIENTCONFIG=path("client.conf"), HOME=root,
                   XDG_CONFIG_HOME=root, XDG_RUNTIME_DIR=root, PULSE_RUNTIME_PATH=root)
        env.pop("PULSE_SERVER", None)
        heard = record("pulse", env=env)
        self.assertEqual(heard.status, 4, heard.error)
        self.assertFalse(os.path.exists(path("spawned")))
        # the trap is one: another client falls into it
        subprocess.run(["pactl", "info"], env=env, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False, timeout=TIMEOUT)
        self.assertTrue(os.path.exists(path("spawned")))


@unittest.skipUnless("pulse" in BACKENDS, "a build without libpulse")
class PulseIsStrange(unittest.TestCase):
    """What listens in the place of a server does not answer, or not as one."""

    def setUp(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        name = path("native-" + self.id())
        self.listener.bind(name)
        self.listener.listen()
        self.env = dict(os.environ, PULSE_SERVER="unix:" + name, PULSE_COOKIE=path("cookie"),
                        HOME=root, XDG_CONFIG_HOME=root)

    def test_no_answer(self):
        heard = record("pulse", env=self.env)
        self.assertEqual(heard.status, 4)
        self.assertIn("--source pulse: no answer", heard.error)

    def test_no_answer_interrupted(self):
        recording = Recording(["pulse"], self.env)
        with self.listener.accept()[0] as connection:
            connection.recv(1)
            begin = time.monotonic()
            recording.process.send_signal(signal.SIGINT)
            recording.finish()
            self.assertLess(time.monotonic() - begin, 4)
        self.assertEqual((recording.status, recording.error), (130, ""))

    def test_hung_server_is_not_asked_through_alsa(self):
        heard = record(env=self.env)
        self.assertEqual(heard.status, 4, heard.error)
        self.assertIn("PulseAudio (no answer) and ALSA (not asked", heard.error)
        listed = subprocess.run([RECORD_RAW, "-l"], env=self.env, capture_output=True, text=True,
                                timeout=TIMEOUT)
        self.assertEqual((listed.returncode, listed.stdout), (0, ""))
        self.assertIn("ALSA (not asked", listed.stderr)

    def test_garbage(self):
        recording = Recording(["pulse"], self.env)
        connection = self.listener.accept()[0]
        connection.recv(1)
        connection.sendall(b"\x00\x00\x00\x08\xff\xff\xff\xff" + bytes(12) + b"garbage!")
        heard = recording.finish()
        connection.close()
        self.assertEqual(heard.status, 4, heard.error)
        self.assertRegex(heard.error, "--source pulse: (Protocol error|Connection terminated)")


def card_values(first, frames, channels):
    """What fake_card.c gives, [frames][channels]."""
    frame = numpy.arange(first, first + frames)[:, None]
    value = (7919 * frame + 12345 * numpy.arange(channels)[None, :]) % 65536 - 32768
    return value.astype("<i2")


@unittest.skipUnless("alsa" in BACKENDS, "a build without libasound")
class Alsa(unittest.TestCase):
    def setUp(self):
        self.env = dict(os.environ, ALSA_CONFIG_PATH=path("asound.conf"),
                        PULSE_SERVER="unix:/nonexistent")

    def configure(self, text):
        with open(path("asound.conf"), "w", encoding="utf-8") as file:
            file.write(f'pcm_type.fake {{ lib "{FAKE_CARD}" }}\n{text}\n')

    def record(self, *args):
        return record(*args, env=self.env)

    def test_null_gives_zeros(self):
        self.configure("pcm.silent { type null }")
        heard = self.record("-s", "1", "alsa:silent")
        self.assertEqual((heard.status, heard.rate, heard.channels), (0, 48000, 2), heard.error)
        self.assertEqual(heard.source, "alsa:silent")
        self.assertGreaterEqual(len(heard.samples), 48000)
        self.assertFalse(heard.samples.any())

    def test_file_is_bit_exact(self):
        clip = noise(70000, 2, seed=5).astype("<i2")
        with open(path("in.raw"), "wb") as file:
            file.write(clip.tobytes())
        self.configure(f'pcm.default {{ type file slave.pcm {{ type null }} file "/dev/null"'
                       f' infile "{path("in.raw")}" format raw }}')
        # the default device, as there is no PulseAudio
        heard = self.record("-r", "16000", "-c", "2", "-s", str(69999 / 16000))
        self.assertEqual((heard.status, heard.rate, heard.channels), (0, 16000, 2), heard.error)
        self.assertEqual(heard.source, "alsa:default")
        numpy.testing.assert_array_equal(heard.samples, clip[:len(heard.samples)])
        self.assertGreaterEqual(len(heard.samples), 69999)

    def test_every_format_and_channel_count(self):
        """MI5: what the device has is converted."""
        for format_, channels, rate in (("S16", 1, 16000), ("S16", 2, 48000), ("S32", 2, 44100),
                                        ("S24", 3, 22050), ("S24_3LE", 8, 96000),
                                        ("FLOAT", 1, 8000), ("U8", 2, 11025)):
            with self.subTest(format=format_, channels=channels, rate=rate):
                self.configure(f"pcm.card {{ type fake format {format_} channels {channels}"
                               f" rate {rate} }}")
                heard = self.record("-s", "0.3", "alsa:card")
                self.assertEqual((heard.status, heard.rate, heard.channels),
                                 (0, rate, min(channels, 2)), heard.error)
                expected = card_values(0, len(heard.samples), channels)[:, :heard.channels]
                if format_ == "U8":
                    expected = expected // 256 * 256
                numpy.testing.assert_array_equal(heard.samples, expected)
                self.assertEqual((heard.overruns, heard.lost_frames), (0, 0))

    def test_overrun_goes_on_and_is_counted(self):
        self.configure("pcm.card { type fake rate 16000 channels 1 overrun 8000 }")
        heard = self.record("-s", "1.5", "alsa:card")
        self.assertEqual((heard.status, heard.overruns), (0, 1), heard.error)
        # since the last read, which was a period before
        self.assertGreater(heard.lost_frames, 0)
        self.assertLess(heard.lost_frames, 16000)
        self.assertEqual(len(heard.samples), 24000)

    def test_unplugged(self):
        self.configure("pcm.card { type fake rate 16000 channels 1 unplug 8000 }")
        heard = self.record("alsa:card")
        self.assertEqual((heard.status, heard.reason), (6, "No such device"), heard.error)
        self.assertGreater(len(heard.samples), 4000)
        numpy.testing.assert_array_equal(heard.samples, card_values(0, len(heard.samples), 1))

    def test_plugged_in_again(self):
        self.configure("pcm.card { type fake rate 16000 channels 1 unplug 8000 }")
        heard = self.record("-s", "1", "-a", "60", "alsa:card")
        self.assertEqual((heard.status, len(heard.samples)), (0, 16000), heard.error)
        self.assertGreaterEqual(heard.lines.count("reopened"), 1)

    def test_impossible_rate(self):
        self.configure("pcm.card { type fake rate 2000 channels 1 }")
        heard = self.record("alsa:card")
        self.assertEqual(heard.status, 4)
        self.assertIn("device 'card', rate: Numerical result out of range", heard.error)

    def test_unknown_device(self):
        self.configure("")
        heard = self.record("alsa:nosuch")
        self.assertEqual((heard.status, len(heard.samples)), (4, 0))
        self.assertIn("--source alsa:nosuch: device 'nosuch', opening: No such file or directory",
                      heard.error)
        # and nothing of ALSA's own
        self.assertEqual(len(heard.lines), 2, heard.error)

    def test_list(self):
        self.configure('pcm.mic { type fake hint { show on description "A fake card\n2nd line" } }'
                       '\n'
                       'pcm.default { type fake hint { show on description "Usual" } }\n'
                       'pcm.none { type nosuch hint { show on description "Not there" } }\n'
                       'pcm.null { type null hint { show on description "Nothing" } }')
        listed = subprocess.run([RECORD_RAW, "-l"], env=self.env, capture_output=True, text=True,
                                check=True).stdout.splitlines()
        self.assertEqual(sorted(listed), ["alsa:default\tUsual\tdefault\t",
                                          "alsa:mic\tA fake card 2nd line\t\t"])


class Absent(unittest.TestCase):
    """What the build has not is said, with what to do."""

    def test_left_out(self):
        for name, title in (("pulse", "PulseAudio"), ("alsa", "ALSA")):
            if name not in BACKENDS:
                heard = record(name)
                self.assertEqual(heard.status, 4)
                self.assertIn(f"{title} is not in this build", heard.error)
                self.assertIn(f"-D{name}=enabled", heard.error)

    def test_nothing_in_the_build(self):
        if BACKENDS:
            self.skipTest("a build with " + " and ".join(BACKENDS))
        heard = record()
        self.assertEqual(heard.status, 4)
        self.assertIn("no microphone: tried PulseAudio (not in this build) and ALSA (not in this"
                      " build)", heard.error)
        self.assertIn("build with -Dpulse=enabled or -Dalsa=enabled", heard.error)

    def test_terminal(self):
        master, slave = os.openpty()
        heard = Recording(["-"], stdin=slave).finish()
        os.close(master)
        os.close(slave)
        self.assertEqual(heard.status, 2)
        self.assertIn("standard input is a terminal", heard.error)


if __name__ == "__main__":
    if "pulse" in BACKENDS and pulse_server.missing():
        sys.exit("not installed: " + pulse_server.missing() +
                 " (sh examples/install-packages.sh test)")
    unittest.main(argv=sys.argv[:1], verbosity=2)
