// Runs the stories of the client, and tells the test how each of them ended.
//
// A story is one rule that a user of the client relies on. For each, one JSON line goes
// to standard output; a story that fails does not keep the others from being told.

'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');

const EXPIRY_SECONDS_MAX = 20;

const stories = [];

/** Adds a story; its name is the function's. */
function story(tellIt) {
  stories.push(tellIt);
}

/** Runs every story with what `begin` makes of the description of the server. */
async function tell(begin) {
  const world = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
  for (const each of stories) {
    let fault = '';
    try {
      await each(begin(world));
    } catch (error) {
      fault = `${error.stack}\n${error.body ?? ''}`;
      process.exitCode = 1;
    }
    process.stdout.write(`${JSON.stringify({ story: each.name, fault })}\n`);
  }
}

/** Returns the error with which a call must end. */
async function rejected(call) {
  let value;
  try {
    value = await call();
  } catch (error) {
    return error;
  }
  assert.fail(`this should have been refused, and gave ${JSON.stringify(value)}`);
}

/** Asks a condition until it holds, for 20 seconds at most. */
async function waitFor(condition) {
  const deadline = Date.now() + EXPIRY_SECONDS_MAX * 1000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, 'the condition never held');
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

module.exports = { story, tell, rejected, waitFor };
