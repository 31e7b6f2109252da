"""What an epoch of stories costs with this package and with every other way this data is loaded today.

    python -m benchmarks.loading [clips | masks | keyframes] [--quick] [--only ours mds] [--markdown FILE]
    python -m benchmarks.loading.resume
    python -m benchmarks.loading.first_batch
    python -m benchmarks.loading.memory

The same work for all: every window of five clips once, in random order, one random picture of the five kept for each
clip (or the middle one, where a form of the data has no other), batches of 16 as float32 (16, 5, 3, 128, 128) in
[-1, 1] with their captions; with masks, also the share of each cell of a 16×16 grid that each instance covers;
keyframes are stories of five JPEGs of 512×512. Each contender loads as its documentation recommends for speed:

    source       the clips, their captions and windows, in the form of the FlintstonesSV release; drawn writes them
    keyframes    the stories of large JPEGs, in the form of the Openstory++ release
    pixels       decoded pictures and masks to a batch, the same for all
    contenders   a module for each library: how it writes the stories, and how it loads them
    roster       the tables, and all contenders of each
    run          one run in a process of its own: convert, check, measure
    resume       what exact states cost, and the first batch after one; states has the runs
    first_batch  the first batch of a fresh process, from a disk and over HTTP
    memory       peak memory as the data grows
    command      what all commands share
    measure      the rounds, and the memory of the processes; once is what runs in them
    table        the figures as Markdown
    profiled     where this package spends its time
"""
