from visualpath_edge.mapping import (
    MAPPERS,
    CompositeMapper,
    DataclassMapper,
    DefaultObservationMapper,
    ObservationMapper,
)

__all__ = [
    "MAPPERS",
    "CompositeMapper",
    "DataclassMapper",
    "DefaultObservationMapper",
    "ObservationMapper",
]
