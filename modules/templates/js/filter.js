// Numbers above a bound are dropped.

import { number } from 'tidegate:module/settings@0.2.0';
import { Fault, filter } from './sdk/tidegate.js';

// Rows pass unchanged unless something else is said of them here.
export const process = filter((batch, out) => {
  const max = number('max');
  if (max === undefined) {
    throw new Fault('the setting `max` is missing');
  }
  for (let row = 0; row < batch.length; row++) {
    if (batch.number(row) > max) {
      out.drop(row);
    }
  }
});
