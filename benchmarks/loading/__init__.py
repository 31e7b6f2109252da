"""What an epoch of stories costs with this package and with every other way this data is loaded today.

    python -m benchmarks.loading [--quick] [--only ours mds] [--markdown FILE]

The same work for all: every window of five clips once, in random order, one random picture of the five kept for each
clip (or the middle one, where a form of the data has no other), batches of 16 as float32 (16, 5, 3, 128, 128) in
[-1, 1] with their captions. Each contender loads as its documentation recommends for speed:

    source      the clips, their captions and windows, in the form of the FlintstonesSV release
    pixels      decoded pictures to a batch, the same for all
    contenders  a module for each library: how it writes the stories, and how it loads them
    roster      all contenders, in the order of the table
    run         one run in a process of its own: convert, check, measure
    measure     the rounds, and the memory of the processes
    table       the figures as Markdown
    profiled    where this package spends its time
"""
