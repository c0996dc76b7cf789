// Data keys are wrapped, unwrapped and carried over to new versions.

'use strict';

const assert = require('node:assert/strict');

const { story, waitFor } = require('./stories');
const { PLAINTEXT, UNICODE_AAD, refused, random, inSeconds } = require('./user');

story(async function a_data_key_is_wrapped_and_unwrapped(user) {
  const id = await user.rootKey();
  for (const aad of [[], ['one'], ['one', 'two'], UNICODE_AAD]) {
    const wrapped = await user.wrap(id, { plaintext: PLAINTEXT, aad });
    assert.equal(wrapped.plaintext, undefined);
    assert.ok(wrapped.keyVersion.id);
    const opened = await user.unwrap(id, { ciphertext: wrapped.ciphertext, aad });
    assert.equal(opened.plaintext, PLAINTEXT);
    assert.equal(opened.ciphertext, undefined);
  }
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT, aad: [] });
  assert.equal((await user.unwrap(id, { ciphertext })).plaintext, PLAINTEXT);
  assert.equal((await user.as('Viewer').unwrap(id, { ciphertext })).plaintext, PLAINTEXT);

  const largest = { plaintext: random(4096), aad: Array(126).fill('🔑'.repeat(255)) };
  const wrapped = await user.wrap(id, largest);
  const opened = await user.unwrap(id, { ciphertext: wrapped.ciphertext, aad: largest.aad });
  assert.equal(opened.plaintext, largest.plaintext);
});

story(async function a_data_key_is_generated(user) {
  const id = await user.rootKey();
  for (const body of [undefined, {}, { aad: ['one'] }]) {
    const made = await user.wrap(id, body);
    assert.equal(Buffer.from(made.plaintext, 'base64').length, 32);
    const opened = await user.unwrap(id, { ciphertext: made.ciphertext, ...body });
    assert.equal(opened.plaintext, made.plaintext);
  }
});

story(async function a_generated_key_is_rotated(user) {
  const id = await user.rootKey();
  const old = await user.wrap(id, { plaintext: PLAINTEXT });
  const rotated = await user.call('rotateKey', { id, prefer: 'return=representation' });
  assert.equal(rotated.status, 204);

  const opened = await user.unwrap(id, { ciphertext: old.ciphertext });
  assert.equal(opened.plaintext, PLAINTEXT);
  assert.equal(opened.keyVersion.id, old.keyVersion.id);
  assert.notEqual(opened.rewrappedKeyVersion.id, old.keyVersion.id);
  const again = await user.unwrap(id, { ciphertext: opened.ciphertext });
  assert.equal(again.plaintext, PLAINTEXT);
  assert.equal(again.ciphertext, undefined);

  const versions = (await user.call('getKeyVersions', { id })).result;
  assert.equal(versions.metadata.collectionTotal, 2);
  const expected = [old.keyVersion.id, opened.rewrappedKeyVersion.id].sort();
  assert.deepEqual(versions.resources.map((version) => version.id).sort(), expected);
  const one = (await user.call('getKeyVersions', { id, limit: 1, offset: 1 })).result;
  assert.equal(one.resources.length, 1);
});

story(async function an_imported_key_is_rotated(user) {
  const id = await user.rootKey({ payload: random(32) });
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT });
  await user.call('rotateKey', { id, keyActionRotateBody: { payload: random(48) } });
  assert.equal((await user.unwrap(id, { ciphertext })).plaintext, PLAINTEXT);
  await refused(400, 'KEY_PAYLOAD_REQ_ERR', () => user.call('rotateKey', { id }));
});

story(async function a_ciphertext_is_rewrapped(user) {
  const id = await user.rootKey();
  const aad = UNICODE_AAD;
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT, aad });
  await user.call('rotateKey', { id });
  const keyActionRewrapBody = { ciphertext, aad };
  const fresh = (await user.call('rewrapKey', { id, keyActionRewrapBody })).result;
  assert.equal(fresh.plaintext, undefined);
  assert.notEqual(fresh.rewrappedKeyVersion.id, fresh.keyVersion.id);
  const opened = await user.unwrap(id, { ciphertext: fresh.ciphertext, aad });
  assert.equal(opened.plaintext, PLAINTEXT);
});

story(async function an_expired_key_only_unwraps(user) {
  const id = await user.rootKey({ expirationDate: inSeconds(2) });
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT });
  await waitFor(async () => (await user.get(id)).state === 3);
  assert.equal((await user.unwrap(id, { ciphertext })).plaintext, PLAINTEXT);
  const code = 'KEY_ACTION_INVALID_STATE_ERR';
  await refused(409, code, () => user.wrap(id, { plaintext: PLAINTEXT }));
  await refused(409, code, () => user.call('rotateKey', { id }));
});
