from visualpath_edge.mapping import CompositeMapper, DefaultObservationMapper, ObservationMapper

__all__ = ["CompositeMapper", "DefaultObservationMapper", "ObservationMapper"]
