// Deadband: a value goes on when it differs enough from the last one that went on. The same as modules/deadband, to the
// bytes of its state.

#include "tidegate.h"

static bool deadband(const filter_batch_t *batch, filter_output_t *out, filter_fault_t *fault);

tidegate_filter(deadband)

// The last reading of a series that went on, as it is kept: a layout's number, so that it is never all zeros, and fields
// without gaps, little-endian as WebAssembly is.
struct __attribute__((packed)) last {
  uint8_t layout;
  int64_t time;
  // Of a number its bits, of anything else its fingerprint.
  uint64_t bits;
  uint8_t kind;
  uint8_t quality;
};

enum { LAYOUT = 1 };
// Truth values, texts and numbers that are not finite: these are equal or not.
enum { FLOAT = 0, INT = 1, OTHER = 2 };

// How far a number may move unnoticed.
struct width {
  bool relative;
  double size;
};

// Spreads every bit over all others, reversibly. Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014.
static uint64_t mix(uint64_t bits) {
  bits += 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

// FNV-1a, 64 bits. Source: Fowler, Noll and Vo, draft-eastlake-fnv.
static uint64_t fnv(filter_string_t text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < text.len; i++) {
    hash = (hash ^ text.ptr[i]) * 0x0100000001b3;
  }
  return hash;
}

// 64 bits that stand for what is no number.
static uint64_t fingerprint(const filter_batch_t *batch, size_t row) {
  uint64_t bits = batch->bits.ptr[row];
  switch (batch->kind.ptr[row]) {
  case TIDEGATE_FLOAT:
    return __builtin_isnan(tidegate_float(bits)) ? mix(1) : mix(mix(2) ^ bits);
  case TIDEGATE_BOOL:
    return mix(mix(4) ^ bits);
  default:
    return mix(mix(5) ^ fnv(batch->texts.ptr[bits]));
  }
}

static struct last observe(const filter_batch_t *batch, size_t row) {
  struct last now = {.layout = LAYOUT, .time = batch->time.ptr[row], .quality = batch->quality.ptr[row]};
  double number;
  if (tidegate_number(batch, row, &number)) {
    now.kind = batch->kind.ptr[row] == TIDEGATE_INT ? INT : FLOAT;
    now.bits = batch->bits.ptr[row];
  } else {
    now.kind = OTHER;
    now.bits = fingerprint(batch, row);
  }
  return now;
}

static double number(const struct last *value) {
  return value->kind == INT ? (double)(int64_t)value->bits : tidegate_float(value->bits);
}

// How far apart two integers are, whatever their signs.
static uint64_t apart(int64_t a, int64_t b) { return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a; }

static bool moved(const struct last *now, const struct last *last, struct width width) {
  if (now->kind == OTHER || last->kind == OTHER) {
    return now->kind != last->kind || now->bits != last->bits;
  }
  double distance;
  if (now->kind == INT && last->kind == INT) {
    // Exact for counters beyond 2^53, whose doubles may be equal.
    distance = (double)apart((int64_t)now->bits, (int64_t)last->bits);
  } else {
    distance = __builtin_fabs(number(now) - number(last));
  }
  return distance > (width.relative ? __builtin_fabs(number(last)) * width.size / 100.0 : width.size);
}

// Seconds as nanoseconds; what is too long is for ever.
static uint64_t nanoseconds(double seconds) {
  double whole = seconds * 1e9;
  return whole >= 18446744073709551615.0 ? UINT64_MAX : (uint64_t)whole;
}

static bool deadband(const filter_batch_t *batch, filter_output_t *out, filter_fault_t *fault) {
  struct width width;
  double percent, seconds;
  bool absolute = tidegate_setting("width", &width.size);
  width.relative = tidegate_setting("percent", &percent);
  if (absolute == width.relative) {
    return tidegate_fault(fault, "one of `width` and `percent` is needed, and not both");
  }
  if (width.relative) {
    width.size = percent;
  }
  bool limited = tidegate_setting("max-silence", &seconds);
  uint64_t silence = limited ? nanoseconds(seconds) : 0;

  struct last *state = (struct last *)tidegate_load(batch, sizeof(struct last), fault);
  if (state == NULL) {
    return false;
  }
  for (size_t row = 0; row < tidegate_rows(batch); row++) {
    struct last now = observe(batch, row);
    struct last *last = &state[batch->series.ptr[row]];
    // A reading far in the past counts as well: otherwise a single time stamp in the future would keep the series silent
    // until then.
    if (last->layout != LAYOUT || now.quality != last->quality || moved(&now, last, width) ||
        (limited && apart(last->time, now.time) >= silence)) {
      *last = now;
    } else {
      tidegate_drop(batch, out, row);
    }
  }
  tidegate_store(batch, sizeof(struct last), (uint8_t *)state);
  return true;
}
