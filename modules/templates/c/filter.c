// Numbers above a bound are dropped.

#include "tidegate.h"

static bool process(const filter_batch_t *batch, filter_output_t *out, filter_fault_t *fault);

tidegate_filter(process)

// Rows pass unchanged unless something else is said of them here.
static bool process(const filter_batch_t *batch, filter_output_t *out, filter_fault_t *fault) {
  double max, number;
  if (!tidegate_setting("max", &max)) {
    return tidegate_fault(fault, "the setting `max` is missing");
  }
  for (size_t row = 0; row < tidegate_rows(batch); row++) {
    if (tidegate_number(batch, row, &number) && number > max) {
      tidegate_drop(batch, out, row);
    }
  }
  return true;
}
