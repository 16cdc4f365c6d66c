"""What a BRCD run cannot do with its data, before it begins."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from kdhash.config import ConfigError
from kdhash.data import Protocol


def check_hashers(config: ConfigDict, protocol: Protocol) -> None:
    """Raises ConfigError listing every problem of `config` with the number of training pictures: one line each."""
    problems = list(_problems(config, len(protocol.train)))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(config: ConfigDict, rows: int) -> Iterator[str]:
    if config.hasher.schedule.batch_size > rows:
        yield (
            f"config.hasher.schedule.batch_size is {config.hasher.schedule.batch_size}, and there are {rows} training "
            "pictures; give as many or fewer"
        )
    field, most = (
        ("count", config.clusters.count) if config.clusters.count else ("counts", max(config.clusters.counts))
    )
    if most >= rows:  # a silhouette needs two items of some cluster
        yield f"config.clusters.{field} asks for {most} clusters of {rows} training pictures; give fewer"
