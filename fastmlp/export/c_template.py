"""The text of a C file that is the same for all nets.

``$name`` becomes ``prefix_name``, in capitals ``PREFIX_NAME``; ``$real`` is the type of
a net's numbers, ``$number`` the type of a row's numbers and of predictions.
"""

DECLARATIONS = """\
#if defined($H) && $H + 0 != @ID
#error "the names of macros here are those of another file: give to_c another prefix than @PREFIX"
#endif
#ifndef $H
#define $H @ID

#include <stddef.h>
#include <stdint.h>

#define $INPUTS @IN
#define $OUTPUTS @OUT
#define $STACK @STACK /* bytes of the stack that a call takes, about */
/* Rows that $predict_rows takes at once, where it was measured to pay: sums of four outputs
   of a block stay in registers. -D$BLOCK=1 takes one row at a time, with the least stack. */
#ifndef $BLOCK
#if @WIDE || !defined(__GNUC__)
#define $BLOCK 1
#elif defined(__AVX512F__) && !defined(__clang__)
#define $BLOCK @MOST
#elif @FLOAT && defined(__AVX2__)
#define $BLOCK 16
#else
#define $BLOCK 1
#endif
#endif
#define $STACK_ROWS ($BLOCK > 1 ? $STACK + $BLOCK * @EACH : $STACK) /* in $predict_rows */

#ifdef __cplusplus
extern "C" {
#endif
/* x, y and jacobian must not overlap. Any number of threads may call at once. */
void $predict(const $number x[$INPUTS], $number y[$OUTPUTS]);
void $predict_rows(size_t n, const $number *x, $number *y);
@MORE
#ifdef __cplusplus
}
#endif
#endif /* $H */

#if defined($IMPLEMENTATION) || defined($TEST_MAIN)
#if defined(__FAST_MATH__) || defined(_M_FP_FAST)
#error "compile it without -ffast-math and -Ofast: they break the elementary functions"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "compile it with -msse2 -mfpmath=sse: numbers of more digits break the same functions"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off", "no-trapping-math")
/* Copies by loops, not by memcpy, leave sums in registers. */
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#if defined(__AVX512F__) && __GNUC__ >= 8
#pragma GCC target("prefer-vector-width=512")
#endif
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic", "peel-loops")
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif
#if defined(__GNUC__)
#define $RESTRICT __restrict
#define $INLINE static inline __attribute__((always_inline, unused))
#define $NOINLINE static __attribute__((noinline, unused))
#define $ALIGNED __attribute__((aligned(64)))
#else
#define $RESTRICT
#define $INLINE static inline
#define $NOINLINE static
#define $ALIGNED
#endif
"""

# Numbers of @B bits and their bits.
OF_BITS = """
#if defined(__FMA__) || defined(__aarch64__) || (defined(__ARM_FEATURE_FMA) && @ARM)
#define $fma@B(a, b, c) __builtin_fma@F(a, b, c)
#define $FUSED@B 1
#elif defined(_MSC_VER) && defined(__AVX2__)
#include <math.h>
#define $fma@B(a, b, c) fma@F(a, b, c)
#define $FUSED@B 1
#else /* a call of a library for each product would take 20 times as long */
#define $fma@B(a, b, c) ((a) * (b) + (c))
#define $FUSED@B 0
#endif
#if defined(__GNUC__) /* one instruction with -fno-math-errno */
#define $sqrt@B(x) __builtin_sqrt@F(x)
#else
#define $sqrt@B(x) sqrt@F(x)
#endif

typedef union {
    @T number;
    uint@B_t bits;
} $word@B;

$INLINE uint@B_t $bits@B(@T x)
{
    $word@B word;
    word.number = x;
    return word.bits;
}

$INLINE @T $of_bits@B(uint@B_t bits)
{
    $word@B word;
    word.bits = bits;
    return word.number;
}

$INLINE @T $abs@B(@T x)
{
    return $of_bits@B($bits@B(x) & @REST);
}

$INLINE @T $copysign@B(@T a, @T b)
{
    return $of_bits@B(($bits@B(a) & @REST) | ($bits@B(b) & ~@REST));
}

/* x 2^n, for t = n + a number whose last bit is worth 1. */
$INLINE @T $scaled@B(@T x, @T t)
{
    return $of_bits@B($bits@B(x) + ($bits@B(t) << @PLACES));
}

/* k + a number whose last bit is worth 1, for the k that brings 2^-k x to about 1. */
$INLINE @T $octave@B(@T x)
{
    return $of_bits@B((($bits@B(x) + @SHIFT) >> @PLACES) + @MAGIC);
}
"""

LAYER = """
/* z = b + x w: four inputs at a time, each sum in one chain, which vectorises along z. */
$INLINE void $layer(const $real *$RESTRICT w, const $real *$RESTRICT b, const $real *$RESTRICT x,
                    $real *$RESTRICT z, int n_in, int n_out)
{
    int k = 0;
    for (int j = 0; j < n_out; ++j) z[j] = b[j];
    for (; k + 4 <= n_in; k += 4, w += 4 * n_out) {
        for (int j = 0; j < n_out; ++j) {
            $real sum = $fma@B(x[k], w[j], z[j]);
            sum = $fma@B(x[k + 1], w[j + n_out], sum);
            sum = $fma@B(x[k + 2], w[j + 2 * n_out], sum);
            z[j] = $fma@B(x[k + 3], w[j + 3 * n_out], sum);
        }
    }
    for (; k < n_in; ++k, w += n_out) {
        for (int j = 0; j < n_out; ++j) z[j] = $fma@B(x[k], w[j], z[j]);
    }
}
"""
# A norm of rows, one number of each row after the other: z[n][rows].
NORM = """
static void $norm($real *$RESTRICT z, const $real *gain, const $real *shift, int n, $real epsilon,
                  int rows)
{
    for (int r = 0; r < rows; ++r) {
        $real mean = 0, variance = 0;
        for (int j = 0; shift && j < n; ++j) mean += z[j * rows + r];
        mean /= ($real)n;
        for (int j = 0; j < n; ++j) {
            const $real distance = z[j * rows + r] - mean;
            variance += distance * distance;
        }
        const $real root = 1 / $sqrt@B(variance / ($real)n + epsilon);
        for (int j = 0; j < n; ++j) {
            const $real x = (z[j * rows + r] - mean) * root;
            z[j * rows + r] = x * gain[j] + (shift ? shift[j] : 0);
        }
    }
}
"""
# The same sums of a block of rows, side by side: x[n_in][$BLOCK], z[n_out][$BLOCK].
LAYER_BLOCK = """
#if $BLOCK > 1
/* Four outputs, whose sums stay in registers. */
$NOINLINE void $four(const $real *$RESTRICT w, const $real *$RESTRICT b,
                     const $real *$RESTRICT x, $real *$RESTRICT z, int n_in, int n_out)
{
    $real z0[$BLOCK], z1[$BLOCK], z2[$BLOCK], z3[$BLOCK];
    for (int r = 0; r < $BLOCK; ++r) {
        z0[r] = b[0];
        z1[r] = b[1];
        z2[r] = b[2];
        z3[r] = b[3];
    }
    for (int k = 0; k < n_in; ++k) {
        const $real *to = w + k * n_out, *from = x + k * $BLOCK;
        for (int r = 0; r < $BLOCK; ++r) {
            z0[r] = $fma@B(from[r], to[0], z0[r]);
            z1[r] = $fma@B(from[r], to[1], z1[r]);
            z2[r] = $fma@B(from[r], to[2], z2[r]);
            z3[r] = $fma@B(from[r], to[3], z3[r]);
        }
    }
    for (int r = 0; r < $BLOCK; ++r) {
        z[r] = z0[r];
        z[r + $BLOCK] = z1[r];
        z[r + 2 * $BLOCK] = z2[r];
        z[r + 3 * $BLOCK] = z3[r];
    }
}

$NOINLINE void $one(const $real *$RESTRICT w, $real b, const $real *$RESTRICT x,
                    $real *$RESTRICT z, int n_in, int n_out)
{
    $real sum[$BLOCK];
    for (int r = 0; r < $BLOCK; ++r) sum[r] = b;
    for (int k = 0; k < n_in; ++k) {
        const $real to = w[k * n_out];
        for (int r = 0; r < $BLOCK; ++r) sum[r] = $fma@B(x[k * $BLOCK + r], to, sum[r]);
    }
    for (int r = 0; r < $BLOCK; ++r) z[r] = sum[r];
}

$INLINE void $layer_block(const $real *w, const $real *b, const $real *x, $real *z, int n_in,
                          int n_out)
{
    const int whole = n_out - n_out % 4;
    for (int j = 0; j < whole; j += 4) $four(w + j, b + j, x, z + j * $BLOCK, n_in, n_out);
    for (int j = whole; j < n_out; ++j) $one(w + j, b[j], x, z + j * $BLOCK, n_in, n_out);
}

/* Rows into a block, and back. */
$INLINE void $to_block(const $real *$RESTRICT rows, $real *$RESTRICT block, int n)
{
    for (int r = 0; r < $BLOCK; ++r) {
        for (int k = 0; k < n; ++k) block[k * $BLOCK + r] = rows[r * n + k];
    }
}

$INLINE void $to_rows(const $real *$RESTRICT block, $real *$RESTRICT rows, int n, int step)
{
    for (int k = 0; k < n; ++k) {
        for (int r = 0; r < $BLOCK; ++r) rows[r * step + k] = block[k * $BLOCK + r];
    }
}
#endif
"""
# Links of rows, in place, z[n][rows]; of numbers: c_source.loop_of.
LINKS = {
    "softmax": """
$INLINE void $softmax($real *z, int n, int rows)
{
    $real peak[$BLOCK], total[$BLOCK];
    for (int r = 0; r < rows; ++r) peak[r] = z[r];
    for (int j = 1; j < n; ++j) {
        const $real *a = z + j * rows;
        for (int r = 0; r < rows; ++r) peak[r] = a[r] > peak[r] ? a[r] : peak[r];
    }
    for (int j = 0; j < n; ++j) {
        for (int r = 0; r < rows; ++r) z[j * rows + r] -= peak[r];
    }
    $rule_exp(z, n * rows);
    for (int r = 0; r < rows; ++r) total[r] = z[r];
    for (int j = 1; j < n; ++j) {
        for (int r = 0; r < rows; ++r) total[r] += z[j * rows + r];
    }
    for (int r = 0; r < rows; ++r) total[r] = 1 / total[r];
    for (int j = 0; j < n; ++j) {
        for (int r = 0; r < rows; ++r) z[j * rows + r] *= total[r];
    }
}
""",
    "sorted": """
$INLINE void $sorted($real *z, int n, int rows)
{
    for (int i = 1; i < n; ++i) {
        for (int j = i; j > 0; --j) {
            $real *$RESTRICT a = z + (j - 1) * rows, *$RESTRICT b = z + j * rows;
            for (int r = 0; r < rows; ++r) {
                const $real low = a[r], high = b[r];
                a[r] = high < low ? high : low;
                b[r] = high < low ? low : high;
            }
        }
    }
}
""",
    "mean_std": """
$INLINE void $mean_std($real *z, int n, int rows)
{
    for (int j = 1; j < n; j += 2) $rule_deviation(z + j * rows, rows);
}
""",
}
# Derivatives, backward through a layer; `slope` is of the layer's inputs, or 0.
BACK = """
static void $back(const $real *w, const $real *d, const $real *slope, $real *out, int n_in,
                  int n_out)
{
    for (int k = 0; k < n_in; ++k, w += n_out) {
        $real sum = 0;
        for (int j = 0; j < n_out; ++j) sum += w[j] * d[j];
        out[k] = slope ? slope[k] * sum : sum;
    }
}
"""
OF_NUMBERS = """
static void $@NAME_slopes(const $real *y, $real *jacobian, int n, int n_in)
{
    for (int o = 0; o < n; ++o) {
        const $real slope = @SLOPE;
        for (int k = 0; k < n_in; ++k) jacobian[o * n_in + k] *= slope;
    }
}
"""
SLOPES = {
    "sigmoid": "y[o] * (1 - y[o])",
    "exp": "y[o]",
    "mean_std": "o % 2 == 0 ? 1 : y[o] > @FLOOR ? y[o] * @HALF : 0",
}
LINK_SLOPES = {
    name: OF_NUMBERS.replace("@NAME", name).replace("@SLOPE", slope)
    for name, slope in SLOPES.items()
}
LINK_SLOPES["softmax"] = """
static void $softmax_slopes(const $real *y, $real *jacobian, int n, int n_in)
{
    for (int k = 0; k < n_in; ++k) {
        $real mean = 0;
        for (int o = 0; o < n; ++o) mean += y[o] * jacobian[o * n_in + k];
        for (int o = 0; o < n; ++o) {
            jacobian[o * n_in + k] = y[o] * (jacobian[o * n_in + k] - mean);
        }
    }
}
"""
# Derivatives of raw outputs are sorted with them.
LINK_SLOPES["sorted"] = """
static void $sorted_slopes($real *z, $real *jacobian, int n, int n_in)
{
    for (int i = 1; i < n; ++i) {
        for (int j = i; j > 0 && z[j] < z[j - 1]; --j) {
            $real *row = jacobian + j * n_in, kept = z[j];
            z[j] = z[j - 1];
            z[j - 1] = kept;
            for (int k = 0; k < n_in; ++k) {
                kept = row[k];
                row[k] = row[k - n_in];
                row[k - n_in] = kept;
            }
        }
    }
}
"""
ROWS = """
void $predict_rows(size_t n, const $number *x, $number *y)
{
#if $BLOCK > 1
    for (; n >= $BLOCK; n -= $BLOCK, x += $BLOCK * $INPUTS, y += $BLOCK * $OUTPUTS) {
        $predict_block(x, y);
    }
#endif
    for (; n > 0; --n, x += $INPUTS, y += $OUTPUTS) $predict(x, y);
}
"""
CLASS = """
int $class(const $number x[$INPUTS])
{
    $number y[$OUTPUTS];
    int best = 0;
    $predict(x, y);@WEIGHTED
    for (int j = 1; j < $CLASSES; ++j) best = y[j] > y[best] ? j : best;
    return best;
}
"""
TESTS = """
#if defined($TEST) || defined($TEST_MAIN)
static const $number $test_x[] = {@X};
static const $number $test_y[] = {@Y};

int $self_test($number tolerance)
{
    int failures = 0;
    for (int i = 0; i < @N; ++i) {
        $number y[$OUTPUTS];
        $predict($test_x + i * $INPUTS, y);
        for (int j = 0; j < $OUTPUTS; ++j) {
            const $number expected = $test_y[i * $OUTPUTS + j];
            const $number difference = y[j] < expected ? expected - y[j] : y[j] - expected;
            const $number size = expected < 0 ? -expected : expected;
            /* What is below the smallest normal number is 0 in fastmlp. NaN is a failure. */
            failures += !(difference <= tolerance * (1 + size) + @TINY);
        }
    }
    return failures;
}
#endif
"""
END = """
#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif /* $IMPLEMENTATION */
"""
MAIN = """
#ifdef $TEST_MAIN
#include <stdio.h>
int main(void)
{
    const int failures = $self_test(@TOLERANCE);
    printf("%d failures of %d\\n", failures, @N * $OUTPUTS);
    return failures > 0;
}
#endif
"""
# Inputs of a model of tables: each is 0, or the row of a level's numbers.
LEVELS = """
static void $levels(const $number *row, const int *column, int n, const int *start,
                    const int *input, const $real *value, int width, $real *z)
{
    for (int j = 0; j < n; ++j) {
        const $number code = row[column[j]];
        const int known = start[j + 1] - start[j] - 1;
        const int place = start[j] + (code >= 0 && code < known ? (int)code + 1 : 0);
        if (input[place] < 0) continue;
        for (int k = 0; k < width; ++k) z[input[place] + k] = value[place * width + k];
    }
}
"""
# The sums of boosted trees: a leaf's feature is -1.
# A code that is not a level takes way 2.
TREES = """
static void $trees(const double *x, double *p)
{
    for (int j = 0; j < @OUTPUTS; ++j) p[j] = 0;
    for (int t = 0; t < @TREES; ++t) {
        int i = $tree_roots[t];
        while ($tree_features[i] >= 0) {
            const double v = x[$tree_features[i]];
            const int n = $tree_n_levels[$tree_features[i]], set = 8 * $tree_places[i];
            int way = 2;
            if (n ? v >= 0 && v < n : v == v) {
                if (set < 0) way = v > $tree_numbers[i];
                else if (v < 256) way = !(($tree_sets[set + (int)v / 32] >> ((int)v % 32)) & 1);
            }
            i = $tree_children[3 * i + way];
        }
        p[t % @OUTPUTS] += $tree_numbers[i];
    }
}
"""
# The order in which NumPy sums a row up.
SUM = """
static $number $sum(const $number *a, int n)
{
    $number r[8] = {0}, total;
    int i = n / 2 - n / 2 % 8;
    if (n > 128) return $sum(a, i) + $sum(a + i, n - i);
    for (i = 0; i < n - n % 8; ++i) r[i % 8] += a[i];
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; ++i) total += a[i];
    return total;
}
"""
CODE = """
static const char *const $level_names[] = {@NAMES};
static const int $level_starts[$INPUTS + 1] = {@STARTS};

int $code(int column, const char *level)
{
    if (column < 0 || column >= $INPUTS) return -1;
    for (int i = $level_starts[column]; i < $level_starts[column + 1]; ++i) {
        const char *a = $level_names[i], *b = level;
        for (; *a && *a == *b; ++b) ++a;
        if (*a == *b) return i - $level_starts[column];
    }
    return -1;
}
"""
