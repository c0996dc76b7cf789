// What users of this client, and perhaps of no other, are used to.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');

const { story } = require('./stories');
const { KEY_TYPE, PLAINTEXT, refused } = require('./user');

story(async function retries_and_correlation_ids_work(user) {
  user.kp.enableRetries({ maxRetries: 2, maxRetryInterval: 1 });
  const correlationId = crypto.randomUUID();
  const response = await user.call('getKeys', { correlationId, limit: 1 });
  assert.equal(response.headers['correlation-id'], correlationId);
  // A refusal that no retry can mend comes back at once.
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.get(crypto.randomUUID()));
});

story(async function the_steps_of_its_readme_work(user) {
  // Settings of other calls are passed along in one object, as the README does it.
  const settings = { apiKey: 'unused', serviceUrl: user.world.url, bluemixInstance: user.instance };
  const body = {
    metadata: { collectionType: KEY_TYPE, collectionTotal: 1 },
    resources: [{ type: KEY_TYPE, name: 'my key', extractable: false }],
  };
  const id = (await user.kp.createKey({ ...settings, body })).result.resources[0].id;
  assert.equal((await user.kp.getKey({ ...settings, id })).status, 200);
  const plaintext = PLAINTEXT;
  const wrapped = await user.kp.wrapKey({ ...settings, id, keyActionWrapBody: { plaintext } });
  const { ciphertext } = wrapped.result;
  const opened = await user.kp.unwrapKey({ ...settings, id, keyActionUnwrapBody: { ciphertext } });
  assert.equal(opened.result.plaintext, plaintext);
});
