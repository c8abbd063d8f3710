"""The text of a C file that is the same for all nets.

``$name`` becomes ``prefix_name``, in capitals ``PREFIX_NAME``; ``$real`` is the type of a net's
numbers, ``$number`` the type of a row's numbers and of predictions.
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
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif
#if defined(__GNUC__)
#define $RESTRICT __restrict
#define $INLINE static inline __attribute__((always_inline, unused))
#else
#define $RESTRICT
#define $INLINE static inline
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
# Links of rows, in place; of numbers: c_source.loop_of.
LINKS = {
    "softmax": """
static void $softmax($real *z, int n)
{
    $real peak = z[0], total;
    for (int j = 1; j < n; ++j) peak = z[j] > peak ? z[j] : peak;
    for (int j = 0; j < n; ++j) z[j] = z[j] - peak;
    $rule_exp(z, n);
    total = z[0];
    for (int j = 1; j < n; ++j) total += z[j];
    total = 1 / total;
    for (int j = 0; j < n; ++j) z[j] *= total;
}
""",
    "sorted": """
static void $sorted($real *z, int n)
{
    for (int i = 1; i < n; ++i) {
        for (int j = i; j > 0; --j) {
            const $real low = z[j - 1], high = z[j];
            z[j - 1] = high < low ? high : low;
            z[j] = high < low ? low : high;
        }
    }
}
""",
    "mean_std": """
static void $mean_std($real *z, int n)
{
    for (int j = 1; j < n; j += 2) $rule_deviation(z + j, 1);
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
    for (size_t i = 0; i < n; ++i) $predict(x + i * $INPUTS, y + i * $OUTPUTS);
}
"""
CLASS = """
int $class(const $number x[$INPUTS])
{
    $number y[$OUTPUTS];
    int best = 0;
    $predict(x, y);
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
# The sums of boosted trees: a leaf's feature is -1. A code that is not a level takes way 2.
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
