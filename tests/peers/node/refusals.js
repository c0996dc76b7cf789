// What is wrong is refused in a way that the client understands.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');

const { story, rejected } = require('./stories');
const { User, KEY_TYPE, PLAINTEXT, refused, random } = require('./user');

// More than the throttled server, which takes one a second, lets through at once.
const HURRIED_CALLS = 6;
const PATIENT_CALLS = 3;

story(async function a_bad_request_names_what_is_wrong(user) {
  const id = await user.rootKey();
  const bad = 'INVALID_FIELD_ERR';
  await refused(400, bad, () => user.wrap(id, { plaintext: 'not base64!' }), 'plaintext');
  await refused(400, bad, () => user.wrap(id, { plaintext: random(4097) }), 'plaintext');
  await refused(400, bad, () => user.wrap(id, { aad: Array(127).fill('x') }), 'aad');
  await refused(400, bad, () => user.unwrap(id, { ciphertext: 'AAAA' }), 'ciphertext');
  await refused(400, bad, () => user.rootKey({ payload: random(16) }), 'payload');
  await refused(400, 'INVALID_QUERY_PARAM_ERR', () => user.page({ limit: 5001 }));
  await refused(400, 'BAD_BODY_ERR', () => user.rootKey({ colour: 'blue' }));
  const standard = (await user.create({})).id;
  await refused(400, 'KEY_ROOT_REQ_ERR', () => user.wrap(standard, { plaintext: PLAINTEXT }));
  const wrongTotal = {
    metadata: { collectionType: KEY_TYPE, collectionTotal: 2 },
    resources: [{ type: KEY_TYPE, name: 'a key' }],
  };
  const mismatch = 'COLLECTION_TOTAL_MISMATCH_ERR';
  await refused(400, mismatch, () => user.call('createKey', { body: wrongTotal }));
  const text = await refused(400, 'INVALID_INSTANCE_HEADER_ERR', () =>
    user.kp.getKeys({ bluemixInstance: 'no-uuid' }),
  );
  assert.equal(text, 'Bad Request: Request requires valid Instance Header containing a valid UUID');
});

story(async function strangers_are_refused(user) {
  const id = await user.rootKey();
  for (const role of ['expired', 'forged']) {
    await refused(401, 'UNAUTHORIZED_ERR', () => user.as(role).get(id));
  }
  const [viewer, editor] = [user.as('Viewer'), user.as('Editor')];
  await refused(403, 'FORBIDDEN_ERR', () => viewer.get(id));
  await refused(403, 'FORBIDDEN_ERR', () => viewer.page());
  await refused(403, 'FORBIDDEN_ERR', () => viewer.rootKey());
  await refused(403, 'FORBIDDEN_ERR', () => editor.call('rotateKey', { id }));
  await refused(403, 'FORBIDDEN_ERR', () => editor.call('deleteKey', { id }));
  assert.equal((await rejected(() => viewer.call('getKeyCollectionMetadata'))).status, 403);
  assert.equal((await editor.get(id)).id, id);
});

story(async function a_key_that_is_not_there_is_not_found(user) {
  const missing = crypto.randomUUID();
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.get(missing));
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.wrap(missing, { plaintext: PLAINTEXT }));
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.call('deleteKey', { id: missing }));
  const elsewhere = await new User(user.world, 'Administrator', 'other_instance').rootKey();
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.get(elsewhere));
});

story(async function a_wrong_ciphertext_is_unprocessable(user) {
  const [id, other] = [await user.rootKey(), await user.rootKey()];
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT, aad: ['a', 'bc'] });
  const broken = Buffer.from(ciphertext, 'base64');
  broken[broken.length - 1] ^= 1;
  const texts = new Set();
  for (const [key, body] of [
    [id, { ciphertext, aad: ['ab', 'c'] }],
    [id, { ciphertext }],
    [id, { ciphertext: broken.toString('base64'), aad: ['a', 'bc'] }],
    [other, { ciphertext, aad: ['a', 'bc'] }],
  ]) {
    texts.add(await refused(422, 'UNPROCESSABLE_CIPHERTEXT_ERR', () => user.unwrap(key, body)));
  }
  assert.equal(texts.size, 1);
});

story(async function what_is_not_served_is_refused_in_the_same_shape(user) {
  const id = await user.rootKey();
  await refused(404, 'NOT_FOUND_ERR', () => user.call('listKeyRings'));
  await refused(404, 'NOT_FOUND_ERR', () => user.call('getPolicy', { id }));
  await refused(404, 'NOT_FOUND_ERR', () => user.call('getRegistrations', { id }));
});

story(async function a_rate_limit_is_waited_for(user) {
  const hurried = new User(user.world.throttled);
  await refused(429, 'TOO_MANY_REQUESTS_ERR', async () => {
    for (let call = 0; call < HURRIED_CALLS; call += 1) {
      await hurried.page();
    }
  });

  const patient = new User(user.world.throttled);
  patient.kp.enableRetries({ maxRetries: 4, maxRetryInterval: 2 });
  for (let call = 0; call < PATIENT_CALLS; call += 1) {
    await patient.page();
  }
});

story(async function the_certificate_is_checked(user) {
  const httpsAgent = new https.Agent({ ca: fs.readFileSync(user.world.other_ca) });
  const stranger = new User(user.world, 'Administrator', 'instance', { httpsAgent });
  const error = await rejected(() => stranger.page());
  assert.equal(error.status, undefined);
  assert.match(error.statusText, /CERT/);
});
