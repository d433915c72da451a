"""The benchmark against peers; `../run` is its entry."""
