"""What Python plugins import of visualbase, provided by visualpath-edge."""

from visualpath_edge.frame import Frame
from visualpath_edge.trigger import Trigger, TriggerType

__all__ = ["Frame", "Trigger", "TriggerType"]
