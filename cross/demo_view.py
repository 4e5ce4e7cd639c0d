#!/usr/bin/env python3
"""Shows the demo as a subscriber sees it; demo.sh starts it.

    demo_view.py OUT_DIR -- COMMAND…

Starts COMMAND (`visualpath run --json …`), waits for its "ready" line, subscribes to its broker
with mosquitto_sub, and prints each trigger and clip as it arrives over MQTT. At the end it
compares what came over MQTT with what the summary says was sent: fewer is a failure.
"""

import json
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

QUIET_S = 5  # what is still on its way from the broker when the run ends gets this long


class Seen:
    """What arrived over MQTT."""

    def __init__(self, out_dir):
        self.out_dir = out_dir
        self.triggers = {}
        self.clips = {"ready": 0, "failed": 0}

    def line(self, text):
        topic, _, payload = text.rstrip("\n").partition("\t")
        kind = topic.rsplit("/", 1)[-1]
        if kind == "trigger":
            self.trigger(json.loads(payload))
        elif kind == "clip":
            self.clip(json.loads(payload))

    def trigger(self, trigger):
        new = trigger["id"] not in self.triggers
        self.triggers[trigger["id"]] = trigger
        if not new:
            return
        print(f"  {clock(trigger['event_start_ns'])}  trigger {trigger['label']} "
              f"(#{trigger['seq']}, frame {trigger['frame_id']}, score {trigger['score']:.2f}): "
              f"{trigger['reason']}", flush=True)

    def clip(self, clip):
        self.clips[clip["state"]] = self.clips.get(clip["state"], 0) + 1
        trigger = self.triggers.get(clip["trigger_id"])
        when = clock(trigger["event_start_ns"]) if trigger else "        "
        if clip["state"] == "ready":
            length = (clip["end_ns"] - clip["start_ns"]) / 1e9
            print(f"  {when}     clip {clip['label']}: {self.out_dir / clip['file']} "
                  f"({clip['frames']} frames, {length:.1f} s)", flush=True)
        else:
            print(f"  {when}     clip {clip['label']} FAILED: {clip['reason']}", flush=True)

    def complete(self, summary):
        return (len(self.triggers) >= summary["triggers"]
                and self.clips["ready"] >= summary["clips"]["ready"])


def clock(t_ns):
    seconds = t_ns / 1e9
    return f"{int(seconds) // 60:02}:{seconds % 60:04.1f}"


def pump(stream, name, into):
    for line in stream:
        into.put((name, line))
    into.put((name, None))


def follow(stream, name, into):
    threading.Thread(target=pump, args=(stream, name, into), name=name, daemon=True).start()


def show(command, out_dir, children):
    events = queue.Queue()
    run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    children.append(run)
    follow(run.stdout, "run", events)
    seen, summary, subscribed = Seen(out_dir), None, False
    running = True
    while running or (subscribed and not seen.complete(summary or {"triggers": 0, "clips": {"ready": 0}})):
        try:
            name, line = events.get(timeout=None if running else QUIET_S)
        except queue.Empty:
            break
        if name == "run" and line is None:
            running = False
        elif name == "run":
            event = json.loads(line)
            if event.get("event") == "ready" and not subscribed:
                subscribed = True
                broker = event["mqtt"]
                print(f"  broker on {broker['host']}:{broker['port']}; subscribing", flush=True)
                subscriber = subprocess.Popen(
                    ["mosquitto_sub", "-h", broker["host"], "-p", str(broker["port"]), "-q", "1",
                     "-t", "visualpath/+/path/+/trigger", "-t", "visualpath/+/path/+/clip",
                     "-F", "%t\t%p"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
                children.append(subscriber)
                follow(subscriber.stdout, "mqtt", events)
            elif event.get("event") == "summary":
                summary = event
        elif line is not None:
            seen.line(line)
    return run.wait(), summary, seen


def print_summary(summary, out_dir):
    dropped = ", ".join(f"{n} {why}" for why, n in sorted(summary["dropped"].items()) if n) or "none"
    observations = ", ".join(f"{n} by {name}" for name, n in sorted(summary["observations"].items()))
    clips = summary["clips"]
    print(f"""
  frames        {summary['frames']} in {summary['wall_s']:.1f} s ({summary['fps']:.1f}/s, {summary['cpu_s']:.1f} s of CPU)
  observations  {observations}
  dropped       {dropped}
  triggers      {summary['triggers']}
  clips         {clips['ready']} ready, {clips['failed']} failed

  Where to look next: the clips under {out_dir / 'clips'} (each with a .json beside it),
  the config cross/demo.toml, and docs/guide.""")


def end(children, already_told):
    for child in children:
        if child.poll() is None and not already_told:
            child.terminate()
    for child in children:
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    out_dir = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    children, interrupted = [], False
    try:
        status, summary, seen = show(sys.argv[3:], out_dir, children)
    except KeyboardInterrupt:  # the children had it too, and are stopping: once is graceful
        interrupted = True
    finally:
        end(children, already_told=interrupted)
    if interrupted:
        return 130
    if status != 0:
        print(f"error: visualpath ended with exit code {status}", file=sys.stderr)
        return 1
    if summary is None:
        print("error: visualpath printed no summary", file=sys.stderr)
        return 1
    print_summary(summary, out_dir)
    if not seen.complete(summary):
        print(f"error: over MQTT came {len(seen.triggers)} of {summary['triggers']} triggers and "
              f"{seen.clips['ready']} of {summary['clips']['ready']} clips", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
