// Write Tidegate modules in C: what stands between the generated bindings and a filter. A filter is one function,
//
//     bool process(const filter_batch_t *batch, filter_output_t *out, filter_fault_t *fault)
//
// which `tidegate_filter` makes the component's. Every row goes on unchanged unless the function says otherwise; where it
// answers false, after `tidegate_fault`, the whole batch goes to quarantine.
#ifndef TIDEGATE_H
#define TIDEGATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/filter.h"

// `kind` of a row.
enum { TIDEGATE_FLOAT = 0, TIDEGATE_INT = 1, TIDEGATE_BOOL = 2, TIDEGATE_TEXT = 3 };
// `quality` of a row.
enum { TIDEGATE_GOOD = 0, TIDEGATE_UNCERTAIN = 1, TIDEGATE_BAD = 2 };

#define tidegate_filter(process)                                                                                    \
  bool exports_filter_process(filter_batch_t *batch, filter_output_t *ret, filter_fault_t *err) {                   \
    *ret = (filter_output_t){.keep = {.tag = TIDEGATE_MODULE_TYPES_KEEP_ALL}};                                      \
    return process(batch, ret, err);                                                                                \
  }

static inline size_t tidegate_rows(const filter_batch_t *batch) { return batch->series.len; }

static inline double tidegate_float(uint64_t bits) {
  double number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// A row's number in `number`; false for truth values, texts, and what is not finite.
static inline bool tidegate_number(const filter_batch_t *batch, size_t row, double *number) {
  uint64_t bits = batch->bits.ptr[row];
  switch (batch->kind.ptr[row]) {
  case TIDEGATE_FLOAT:
    *number = tidegate_float(bits);
    return __builtin_isfinite(*number);
  case TIDEGATE_INT:
    *number = (double)(int64_t)bits;
    return true;
  default:
    return false;
  }
}

// The rows of a batch are whatever they were but this one, which is dropped and counted as filtered.
static inline void tidegate_drop(const filter_batch_t *batch, filter_output_t *out, size_t row) {
  if (out->keep.tag == TIDEGATE_MODULE_TYPES_KEEP_ALL) {
    size_t bytes = (tidegate_rows(batch) + 7) / 8;
    uint8_t *bitmap = malloc(bytes);
    if (bitmap == NULL) {
      abort();
    }
    memset(bitmap, 0xff, bytes);
    out->keep.tag = TIDEGATE_MODULE_TYPES_KEEP_ROWS;
    out->keep.val.rows = (filter_list_u8_t){bitmap, bytes};
  }
  out->keep.val.rows.ptr[row / 8] &= (uint8_t) ~(1u << (row % 8));
}

// A number of the settings; false where there is none of this name.
static inline bool tidegate_setting(const char *name, double *number) {
  filter_string_t key;
  filter_string_set(&key, name);
  return tidegate_module_settings_number(&key, number);
}

// Says why the batch could not be judged; the function then answers with what this gives.
static inline bool tidegate_fault(filter_fault_t *fault, const char *message) {
  filter_string_dup(&fault->message, message);
  return false;
}

// The state of every series of the batch: `width` bytes for each of its `names`, as the manifest says; NULL, with a fault,
// where the manifest says something else.
static inline uint8_t *tidegate_load(const filter_batch_t *batch, size_t width, filter_fault_t *fault) {
  filter_list_u8_t records;
  tidegate_module_series_state_load(&records);
  if (records.len != batch->names.len * width) {
    tidegate_fault(fault, "the manifest's `state.series.width` is not that of the filter's record");
    return NULL;
  }
  return records.ptr;
}

// Keeps what `tidegate_load` gave, with its changes, together with the batch.
static inline void tidegate_store(const filter_batch_t *batch, size_t width, uint8_t *records) {
  filter_list_u8_t column = {records, batch->names.len * width};
  tidegate_module_series_state_store(&column);
}

#endif
