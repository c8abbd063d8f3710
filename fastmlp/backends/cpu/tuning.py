"""Every measured constant of the CPU backend, to be measured again for another machine.

A constant states the figures that chose it, as ``before -> after (net@batch,
threads)``; a section states the command that measures it again. Times are of one step
unless a comment says otherwise.
"""

import sys

from fastmlp.compiler.target import second_level_bytes, vector_bytes

# --- Lines and pages -----------------------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only -k "16-64-64-2"

# Alignment of buffers, in bytes: cache lines travel in pairs on x86,
# and are that long on Apple's cores.
ALIGNMENT = 128
# Bytes between memory that two threads write. The hardware prefetcher fetches 8 to 16
# lines ahead, also lines that another core writes. Lines apart: 0 -> 2 -> 8 -> 16, 16.4
# -> 15.5 -> 13.8 -> 13.3 us (16-64-64-2@64, 2 threads); 42 -> 21 to 30 us on cores far
# from each other.
APART_BYTES = 1024
# Rows of 64 bytes in a page:
# panels a multiple of 4 KiB apart share the same few sets of a cache.
PAGE_ROWS = 64

# --- Blocks of rows and weights ------------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only -k "784-512-512 or 1024-2048"
# python -m pytest benchmarks/bench_peak.py --benchmark-only

# Rows that a microkernel takes at once;
# the unit in which the loss is summed and rows are shared.
STRIP_ROWS = 8
# Most rows of one sweep over B: between two depth blocks their sums are on the stack.
# 64 -> 128: 122 -> 100 ms, forward and back (1024-2048-2048-1000@512, 1 thread).
ROW_BLOCK = 128
# Most rows of a block with derivatives: a multiple of STRIP_ROWS.
DERIVATIVE_ROWS = 64
# Most rows of a layer's weights in one tile of phase two.
TILE_ROWS = 64
# Most outputs of a layer that is held transposed: the larger of 4 and 5/8 of a vector.
# 16.3 -> 15.6 us (64-64-10@64, 1 thread; 8 -> 10 outputs), 2.4 -> 2.0 us (16-32-5@32; 4
# -> 5).
FEW_OUTPUTS, FEW_OUTPUTS_EIGHTHS = 4, 5
# Bytes of the second-level cache that a tile's inputs, or the rows of X,
# may fill. 512 -> 256 KB of 512: within noise to 5 % less (AVX2, float32).
CACHE_BYTES = min(second_level_bytes() // 2, 512 * 1024)
# Bytes of parameters, optimizer state and transposes that leave a shared third-level
# cache: then transposes are stored non-temporally. 1.37 -> 1.14 ms (1 thread), 0.74 ->
# 0.67 ms (2 threads) (128-1024-1024-10@32, 18 MB); 0.55 -> 0.57, 0.41 -> 0.38 ms
# (784-512-512-10@32, 9 MB).
NON_TEMPORAL_BYTES = 12 << 20
# Bytes of parameters and optimizer state from which an update's are prefetched: they
# leave the second-level cache. 4.35 -> 4.15 ms, and in bfloat16 2.86 -> 2.64 ms
# (784-512-512-10@128, 1 thread, 8 MB); 2.31 -> 2.27 ms (28-300x5-2@100, 1 thread, 4.4
# MB). Never with AVX2: phase two 20.9 -> 16.9 ms without (128-1024-1024-10@512).
PREFETCHED_STATE_BYTES = sys.maxsize if vector_bytes() == 32 else 4 << 20
# Bytes of a row of X from which the next batch's rows are prefetched, unless the state
# is. 415 -> 402 us (784-100-100-10@200, 1 thread), 253 -> 240 us (784-128-10@128, 1
# thread).
PREFETCHED_ROW_BYTES = 1024

# --- Register tiles ------------------------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only --threads 1 -k "784-512 or 1024"

# The largest tile of a product, rows by panels: its sums fill the registers that A and
# B leave, and its rows divide a strip. With 16 registers, 4 x 2 tiles have too few sums
# to hide loads behind: 4 x 2 -> 4 x 3, 91 -> 106 GFLOP/s of 110.
LARGEST_TILE = (8, 2) if vector_bytes() == 64 else (4, 3)
# Rows of the smaller tile, for the few rows after the last whole strip.
SMALL_TILE_ROWS = 4
# True: a panel of which at most half is used is computed by half vectors.
# AVX-512 on units of 256 bits takes half the time for them.
HALF_VECTORS = vector_bytes() == 64
# Products of a sum between two stores of it. With 32 registers, a block of B, 16 KiB,
# leaves room in the first-level cache: no blocks -> 128, 131 -> 189 GFLOP/s (64 x 32 x
# 2048). With 16, a tile's beginning and end cost more than a block of 36 KiB in the
# second-level cache: 128 -> 384, 90 -> 93 GFLOP/s of 110.
DEPTH_BLOCK = 128 if vector_bytes() == 64 else 384
# Columns, rows and depth from which products by rows read a packed copy of A; with AVX2
# alone, its tiles of 4 rows change pages most often. 41 -> 72 GFLOP/s of 109 (512 x
# 1024 x 1024).
LEAST_PACKED = (96 if vector_bytes() == 32 else sys.maxsize, 5, 64)
# Bytes of packed rows that stay in the second-level cache.
PACKED_BYTES = 256 * 1024
# The fewest strips of packed rows.
PACKED_STRIPS = 4
# Chains of additions that sum the rows of a panel:
# in a single one each waits four cycles.
SUM_CHAINS = 8
# Panels of a row of W that a sparse row multiplies at once: 256 bytes of it with AVX2.
# 1 panel: 0.17 s (20,000 rows of 50 numbers, 100 units).
SPARSE_PANELS = 8
# Running sums that are made together, for columns of pieces: these, as many weights (24
# KiB of 512 bits) and a strip's outputs are in the first-level cache.
SUMS_ROWS = 192
# Most pieces of memory that a tile of weights prefetches:
# the largest tile's panels, each with parameters and two numbers of state.
MOST_STREAMS = 9
# Steps of a sum from one of a gradient's prefetches to the next: a few lines at a time.
# 128 -> 32: 2.56 -> 2.53 ms, 19.0 -> 18.9 ms (784-512-512-10@128, 128-1024-1024-10@512
# in bfloat16, 1 thread).
PREFETCH_STEPS = 32

# --- Chunks and microbatches ---------------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only -k "4-32-16-4 or 1024-2048"

# Most activations in the buffers of a chunk of rows: bounds memory.
CHUNK_NUMBERS = 4_000_000
# Most operations of a chunk, 0.25 s of one core:
# bounds the time until Ctrl-C is served.
CHUNK_FLOPS = 25_000_000_000
# Outputs and deltas of a chunk, or of a microbatch,
# that stay in the second-level cache.
CACHE_NUMBERS = 200_000
# Fewest rows of a chunk that is cut to stay in the cache.
MIN_CHUNK_ROWS = 64
# The cache bounds a chunk's rows if it has this many times more numbers than the net
# has weights.
CHUNK_PER_WEIGHT = 8
# The number of microbatches is a multiple of this: threads have equal numbers of them.
MICROBATCHES = 4
# Fewest operations of a step that is cut into microbatches:
# a shorter step takes longer when cut. 603 -> 415 us (4-32-16-4@10000, 2 threads).
MICROBATCH_FLOPS = 10_000_000

# Most rows of a chunk whose deltas give the gradient by the inputs.
SUMMED_ROWS = 512

# --- Cost of a step on a team --------------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only

# Operations a second of one thread: 60 to 180 GFLOP/s are measured.
# A rate too high errs on the side of one thread.
FLOP_RATE = 1.2e11
# Bytes a second that a core fetches of another core's last writes:
# 1.8 MB of weights in 0.4 ms (784-512-512-10, 2 threads).
FETCH_RATE = 4e9
# Estimated seconds of a join, to compare the forms of a step.
JOIN_SECONDS = 1e-6
# Fewest operations of a step that is laid out for a team and for split-K; below,
# split-K costs one thread 1 %. 8.7 -> 5.5 us (16-64-64-2@16, 0.5 MFLOP, 2 threads; 1
# thread: 6.9 us).
SHARED_FLOPS = 400_000

# --- Cost model: does a team pay -----------------------------------------------------------------
# python -m pytest benchmarks --benchmark-only -k "train or predict"

# Sharing must save this many times the time of its joins, if a job's cross-core traffic
# is not estimated: it occurs after joins. At 0.4 us a join, 1 -> 2 threads: 15.8 ->
# 23.6 us (16-64-64-2@64, 2 MFLOP), 665 -> 465 us (4-32-16-4@10000, 40 MFLOP).
JOINS_SAVED = 20
# Seconds of a join between cores far from each other: scales the estimated traffic.
FAR_JOIN = 4e-7
# Least seconds of a join, the wait for the last thread included;
# calibration finds 0 to 0.06 us between near cores.
LEAST_JOIN = 2e-7
# Fewest operations between two joins of a job that is worth a calibration.
# 1 -> 2 threads: 6.9 -> 5.6 us (16-64-64-2@16, 126,000 operations).
LEAST_FLOPS = 120_000
# Seconds of shareable work after which a process compiles its team,
# which takes 0.7 s once.
WORTH_COMPILING = 0.1
# Seconds for which a calibration is valid.
SECONDS_VALID = 5.0
# Seconds for which a calibration with less than this speedup is valid:
# a disturbance of 1 ms kept a fit of 1024-2048-2048-1000 on one thread for 5 s.
SECONDS_DOUBTED, CLEAR_SPEEDUP = 0.25, 1.5
# Rounds of a calibration.
ROUNDS = 3
# Joins in a round.
JOINS = 25
# The ratio of a calibration's long items to its short ones.
ITEMS = 8
# An item of a calibration, 0.3 us: its numbers, and multiply-adds of each.
NUMBERS, REPEATS = 128, 40
# Seconds for workers to wake up on separate cores before a calibration. After 0.2 s of
# sleep Linux wakes half of them on the caller's core and moves them after 7 to 22 ms.
# 9.9 -> 6.6 us (16-64-64-2@64, 2 threads).
WAKING = 0.03

# --- Autotuner: one thread or a team -------------------------------------------------------------
# python -m pytest benchmarks/bench_train.py --benchmark-only, beside a busy process

# Uncounted calls of a team, and of one thread:
# a team's first call compiles, or waits for its threads.
SETTLING = {True: 1, False: 0}
# Calls of the faster before the slower is timed again;
# doubled after each trial that changes nothing, up to the second number.
RETRY, MOST_RETRY = 4, 4096
# Calls, and seconds of them, after which the slower is timed again at the latest. After
# another library's threads have spun for a minute, a team of calls of 10 ms runs again
# in 22 -> 1.3 s.
LONG_RETRY, LONG_RETRY_SECONDS = 128, 1.0
# One call can raise a recorded time by this factor at most.
SLOWER = 1.25

# --- Threads -------------------------------------------------------------------------------------
# python -m pytest benchmarks --benchmark-only -k "predict or train"

# Estimated seconds of a call below which it does not wait for sleeping workers.
PATIENT_SECONDS = 0.0005
# Operations of a piece of a thread's part between two joins, and the most pieces:
# threads that are done take pieces of other parts. 1 -> 4 pieces: -5 %, -11 % beside a
# busy process; 4 -> 16 pieces: +15 % (1024-2048-2048-1000@512, 2 threads).
PIECE_FLOPS, MOST_PIECES = 80_000_000, 4
# Spins, of about 50 ns, at a barrier before a thread yields its core,
# and between yields.
BARRIER_SPINS, BARRIER_YIELDS = 2000, 50
# Spins of a leader that waits for its team before the first loop, 0.2 ms. Without them
# a step of 80 ms often ran its first loop on one thread, in twice the time.
TEAM_SPINS = 5000
# Spins of a worker at its mailbox, about 1 ms, and spins between yields: Python takes
# 10 to 100 us from one call to the next. A launch: 74 -> 20 us; 162 -> 90 us
# (16-64-64-2, 1,000 rows predicted, 2 threads). A worker that woke on the caller's core
# must run until Linux moves it: 0.2 -> 1 ms, 3.0 -> 2.2 ms (256 rows, 784-512-512-10,
# calls of 20 ms after pauses), a process's CPU 1.03.
MAILBOX_SPINS, MAILBOX_YIELDS = 20_000, 50

# Operations of a loop over rows, 0.2 ms of two threads:
# a worker that comes late joins the next.
LOOP_FLOPS = 40_000_000
# Fewest operations of a prediction that may be led, 15 to 20 us of one thread, unless
# its weights leave the cache. 600,000: 8.8 -> 11.6 us (16 rows, 106-348-10, 2 threads
# beside load).
LEAST_LED = 2_400_000
# Bytes of weights from which a team shares a layer by outputs: half of a core's cache.
# Fewer, and many rows, it shares by rows, as a core fetches what the other one has
# written.
BY_OUTPUTS_BYTES = second_level_bytes() // 2
# Calls of a prediction from one that is timed to the next.
LED_CALLS = 16
# Spins, 3 us, of a leader that waits for a worker that spins: it comes in 0.5 us from a
# spin, and later where the system has its core do something else.
LED_SPINS = 60
# Seconds from a call that found workers asleep to another one,
# below which the next wakes them: a worker would spin for 0.4 ms.
AWAKE_SECONDS = 0.0003
# Least seconds from one time that late workers leave their caller's core,
# in 8 us, to the next.
SPREAD_SECONDS = 0.005

# Most operations, 0.1 ms, of a single step that asks for no team: to choose and launch
# one, and to leave it, takes 40 to 60 us, and a calibration 30 ms. 83 -> 60 us
# (16-64-64-2@128), 103 -> 79 (32-100-100-1@64, 2 threads).
ALONE_FLOPS = 12_000_000

# --- Predictions ---------------------------------------------------------------------------------
# python -m pytest benchmarks/bench_predict.py --benchmark-only -k "16-64-64-2"

# Most rows that are predicted one by one rather than as a vector of rows.
# 1.4 -> 1.1 us (16-64-64-2, 4 rows, 1 thread).
ONE_BY_ONE = 4
# Most rows of a call that holds the GIL, 30 to 48 us.
GIL_ROWS = 1024
# Most multiply-adds of such a call that goes row by row. New buffers -> spare ones, 2
# rows: 225 -> 134 us (784-512-512-10).
GIL_ROW_PRODUCTS = 500_000
# Most multiply-adds of such a call by vectors of rows. Row blocks -> vectors of rows, 5
# rows, 1 thread: 113 -> 43 us (784-128-10), 216 -> 101 (784-256-128-10).
GIL_LANE_PRODUCTS = 1_750_000
# Most multiply-adds of such a call in tiles that a team may share, 40 to 110 us: Python
# takes 10 us around a call without the GIL. 4 rows, 2 threads of a Xeon with AVX-512:
# 57 -> 46 us (760-835-5), 68 -> 53 (784-512-512-10), 133 -> 112 (128-1024-1024-10).
GIL_TEAM_PRODUCTS = 5_000_000
# Most multiply-adds of rows with norms or skips, which go one by one.
# Packed panels -> one by one: 29.5 -> 8.3 us (23-64-64-1, 32 rows, 1 thread).
STAGED_PRODUCTS = 1_000_000
# Bytes of a layer's rows that all passes of a norm take at a time. All rows of a block
# -> this: 643 -> 638 us (23-256-256-1@256, 1 thread), 4.60 -> 4.54 ms (SimBa).
STAGED_BYTES = 1 << 14
# Tiles of rows that share one reading of the weights, rows by vectors of outputs: for
# more than `SECOND_TILE_ROWS` rows, for at most these, and for two. 98 -> 70 us
# (2 x 784 x 512, 4 x 3 -> 2 x 4, AVX2). With 32 registers 8 rows halve what is read of
# the second-level cache: 4 x 3 -> 8 x 3, 247 -> 188 us (16 rows), 2.64 -> 2.18 ms (256
# rows of 784-512-512-10, 1 thread, Xeon with AVX-512).
ROW_TILES = ((8, 3) if vector_bytes() == 64 else (4, 3), (4, 3), (2, 4))
# Most rows that the second of these tiles takes.
SECOND_TILE_ROWS = 4
# Rows of weights that are packed at a time.
PACKED_ROWS = 8
# Bytes of weights that few tiles of rows read at once,
# in whole rows: 101 -> 80 us (2 rows).
ROW_TILE_BYTES = 1 << 15
# Rows of outputs a multiple of this many bytes apart are spread,
# and two tiles of rows copy weights whose rows are as long.
SPREAD_BYTES = 2048
# Most rows whose tiles read flat weights where nobody has asked twice; more are worth
# packing them. 8 -> 16, 12 and 16 rows: 305 -> 265, 361 -> 345 us (784-512-512-10), 52
# -> 35, 60 -> 45 (128-256-256-10); 20 rows would take 413 -> 425.
LIVE_ROWS = 16
# Rows that pass through all layers at once in tiles.
TILED_AT_ONCE = 128
# Fewest weights of a net whose rows go in tiles, with AVX2 and AVX-512; vectors of 16
# bytes were not measured. Row blocks -> tiles: 179 -> 164 us (64 rows, 128-256-256-10,
# AVX2); packed panels -> tiles, 64 rows of 784-512-512-10: 1,181 -> 1,001 us (AVX2),
# 842 -> 581 us (AVX-512).
TILED_WEIGHTS = sys.maxsize if vector_bytes() == 16 else 50_000
# Rows of one tile with AVX-512.
ONE_TILE = 8
# Fewest weights of a net whose calls of at most `ONE_TILE` rows go in a tile. In lanes
# -> tiles, 4 rows, one thread of a Xeon with AVX-512: 8.2 -> 3.5 us (106-348-10), 3.6
# -> 2.3 (64-100-100-2), 2.3 -> 2.0 (100-100-10). AVX2 was not measured.
ONE_TILE_WEIGHTS = 15_000 if vector_bytes() == 64 else TILED_WEIGHTS
# Fewest weights of a net of which a row may be led.
LED_WEIGHTS = max(250_000, TILED_WEIGHTS)
# Most operations of a prediction, 5 to 10 ms, that reads parameters where they are:
# a copy of 2.7 MB takes 100 to 200 us.
LIVE_FLOPS = 1_000_000_000
# Most bytes of parameters that row blocks read again and again; wider nets go by packed
# panels. Panels -> blocks: 3.3 -> 2.7 ms (784-256-256-10, 1.1 MB, 1,000 rows, 2
# threads); equal (784-512-512-10, 2.7 MB).
BLOCK_BYTES = 1 << 21
# Most operations of one call of predictions, 0.1 s of one core: then Ctrl-C is served.
PREDICT_FLOPS = 5_000_000_000

# --- Free lists ----------------------------------------------------------------------------------
# python -m pytest benchmarks --benchmark-only -k "train or predict or many"

# Most packed parameters that a prediction leaves to the next one: 4 MB of float32.
KEPT_PARAMETERS = 1 << 20
# Bytes of the buffers of ended fits that the process keeps: enough for 8 million
# parameters, in mixed precision too. New buffers take 0.15 ms, and up to 2.4 ms a
# megabyte of new memory. 128 -> 160 MB: 815 -> 760 ms (12 steps of
# 1024-2048-2048-1000@512 in bfloat16, 146 MB).
KEPT_TRAINING_BYTES = 5 << 25
