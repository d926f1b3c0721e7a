import assert from 'node:assert/strict';
import { test } from 'node:test';

import { formatDuration, parseDuration } from '../src/duration.js';

test('a duration is read unit by unit', () => {
  assert.equal(parseDuration('45s'), 45);
  assert.equal(parseDuration('1h30m'), 5_400);
  assert.equal(parseDuration('1d2h30m15s'), 95_415);
});

test('what is no duration is refused', () => {
  for (const text of ['', 'soon', '1h and a bit', '90']) {
    assert.throws(() => parseDuration(text), TypeError);
  }
});

test('a duration is written in the fewest units', () => {
  assert.equal(formatDuration(0), '0s');
  assert.equal(formatDuration(5_430), '1h30m30s');
  assert.equal(formatDuration(3_600), '1h');
  assert.equal(formatDuration(86_400), '1d');
});

test('a negative number of seconds is refused', () => {
  assert.throws(() => formatDuration(-1), RangeError);
});
