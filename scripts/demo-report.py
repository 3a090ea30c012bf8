#!/usr/bin/env python3
"""Says what the demo's viewer received, and fails if that is less than SECONDS of picture and sound.

usage: demo-report.py FOLDER SECONDS"""

import array
import json
import os
import sys

# The clip's pictures a second, and the form in which demo.sh decodes its sound.
FRAME_RATE = 25
SOUND_RATE = 48_000
SOUND_CHANNELS = 2
# Full scale is 32,768; below this there is only silence.
LEAST_LEVEL = 20


def sound(path):
    """Seconds of sound, and its level (root mean square)."""
    samples = array.array("h")
    with open(path, "rb") as file:
        samples.frombytes(file.read())
    level = (sum(s * s for s in samples) / max(len(samples), 1)) ** 0.5
    return len(samples) / SOUND_RATE / SOUND_CHANNELS, level


def main(folder, seconds):
    with open(os.path.join(folder, "stats.jsonl"), encoding="utf-8") as file:
        stats = json.loads(file.readlines()[-1])
    sound_file = os.path.join(folder, "sound.raw")
    heard, level = sound(sound_file)
    os.remove(sound_file)
    picture = os.path.join(folder, "picture.png")
    print(f"frames decoded   {stats['frames_decoded']} ({stats['frames_decoded'] / FRAME_RATE:.1f} s)")
    print(f"sound decoded    {heard:.1f} s (level {level:.0f} of 32768)")
    print(f"first picture    {stats['first_frame_ms']:.0f} ms after the viewer's start")
    print(f"path             {stats['path']}, {stats['remote']}, round trip {stats['rtt_ms']} ms")
    print(f"packets          {stats['packets_received']} received, {stats['packets_lost']} lost")
    print(f"recording        {folder}/recording.mkv")
    print(f"one picture      {picture}")
    if stats["frames_decoded"] < seconds * FRAME_RATE:
        sys.exit(f"error: less than {seconds} s of picture was decoded")
    if heard < seconds or level < LEAST_LEVEL:
        sys.exit(f"error: less than {seconds} s of sound was decoded")
    if not os.path.getsize(picture):
        sys.exit("error: no picture was saved")


main(sys.argv[1], int(sys.argv[2]))
