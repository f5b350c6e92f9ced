"""The self-benchmark: accuracy and joules of models, quantisations and backends on this device, from the same run."""
