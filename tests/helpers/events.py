"""TensorBoard events, read with tensorboardX's own protocol buffers."""

from tensorboardX.proto.event_pb2 import Event


def read_events(folder):
    """The values of a run's events, by tag: (step, value) each, oldest file first."""
    events: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                events.setdefault(value.tag, []).append((event.step, value.simple_value))
    return events
