"""Coverage-guided fuzzing of everything that reads bytes of strangers.

    python -m tests.fuzz pickles --seconds 600

Each harness is a module with `SEEDS` (inputs to start from), `TOKENS` (pieces that mutations may insert) and
`one_input(data)`, which raises for whatever must not happen: any error but the declared one, and any answer that is
not true. An input that takes more than 5 s or 1 GB is found by the fuzzer itself.
"""

HARNESSES = ("pickles", "npy", "rle", "tars", "zips", "references")
