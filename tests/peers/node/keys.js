// Keys are made, found, named, suspended and destroyed.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');

const { story } = require('./stories');
const { DATE, PLAINTEXT, refused, random, inSeconds } = require('./user');

story(async function a_root_key_is_created(user) {
  const key = await user.create({ name: 'root key', description: 'x'.repeat(240), extractable: false });
  assert.match(key.id, /^[0-9a-f]{8}-/);
  assert.deepEqual([key.name, key.state, key.extractable, key.imported], ['root key', 1, false, false]);
  assert.equal(key.payload, undefined);
  assert.equal(key.lastUpdateDate, undefined);

  const expirationDate = inSeconds(3600);
  const whole = await user.create(
    { name: 'root key', extractable: false, expirationDate },
    { prefer: 'return=representation' },
  );
  assert.match(whole.creationDate, DATE);
  assert.equal(whole.expirationDate, expirationDate.replace(/\.\d+Z$/, 'Z'));
  assert.ok(whole.createdBy);
  assert.ok(whole.keyVersion.id);
  assert.equal(whole.payload, undefined);
});

story(async function a_standard_key_is_created(user) {
  const whole = await user.create({ extractable: true }, { prefer: 'return=representation' });
  assert.equal(Buffer.from(whole.payload, 'base64').length, 32);
  const minimal = await user.create({}, { prefer: 'return=minimal' });
  assert.equal(minimal.extractable, true);
  assert.equal(minimal.payload, undefined);
  assert.equal((await user.get(whole.id)).payload, whole.payload);
});

story(async function keys_are_imported(user) {
  for (const size of [32, 48, 64]) {
    const key = await user.create(
      { extractable: false, payload: random(size) },
      { prefer: 'return=representation' },
    );
    assert.deepEqual([key.imported, key.algorithmBitSize], [true, size * 8]);
    assert.equal(key.payload, undefined);
    const { ciphertext } = await user.wrap(key.id, { plaintext: PLAINTEXT });
    assert.equal((await user.unwrap(key.id, { ciphertext })).plaintext, PLAINTEXT);
  }
  const payload = random(32);
  const standard = await user.create({ extractable: true, payload });
  assert.equal((await user.get(standard.id)).payload, payload);
});

story(async function keys_are_listed_by_pages_and_filters(user) {
  const made = [await user.rootKey(), await user.rootKey(), await user.rootKey()];
  const gone = await user.rootKey();
  await user.call('deleteKey', { id: gone });

  const everything = await user.page();
  const ids = everything.resources.map((key) => key.id);
  assert.equal(ids.length, everything.total);
  assert.ok(made.every((id) => ids.includes(id)));
  assert.ok(!ids.includes(gone));
  assert.ok(everything.resources.every((key) => key.payload === undefined));

  const first = await user.page({ limit: 2, offset: 0 });
  const second = await user.page({ limit: 2, offset: 2 });
  const paged = [...first.resources, ...second.resources].map((key) => key.id);
  assert.deepEqual(paged, ids.slice(0, 4));
  assert.equal(first.total, everything.total);

  const roots = await user.page({ extractable: false });
  const standards = await user.page({ extractable: true });
  assert.equal(roots.total + standards.total, everything.total);
  assert.ok(standards.resources.every((key) => key.extractable));
  const destroyed = await user.page({ state: [5] });
  assert.ok(destroyed.resources.some((key) => key.id === gone));
  const all = await user.page({ state: [0, 1, 2, 3, 5] });
  assert.equal(all.total, everything.total + destroyed.total);
});

story(async function keys_are_counted(user) {
  await user.rootKey();
  const response = await user.call('getKeyCollectionMetadata');
  assert.equal(response.status, 200);
  assert.equal(Number(response.headers['key-total']), (await user.page()).total);
  const roots = await user.call('getKeyCollectionMetadata', { extractable: false, state: [1, 2] });
  assert.ok(Number(roots.headers['key-total']) >= 1);
});

story(async function a_key_is_read(user) {
  const id = await user.rootKey({ description: 'read me' });
  const metadata = (await user.call('getKeyMetadata', { id })).result.resources[0];
  assert.deepEqual(await user.get(id), metadata);
  assert.equal(metadata.description, 'read me');

  const standard = (await user.create({})).id;
  const shown = (await user.call('getKeyMetadata', { id: standard })).result.resources[0];
  assert.equal(shown.payload, undefined);
});

story(async function an_alias_names_a_key(user) {
  const first = `volumes-${crypto.randomUUID()}`;
  const alias = `backups-${crypto.randomUUID()}`;
  const id = await user.rootKey({ aliases: [first] });
  const added = await user.call('createKeyAlias', { id, alias });
  assert.equal(added.status, 201);
  assert.deepEqual([added.result.resources[0].keyId, added.result.resources[0].alias], [id, alias]);

  assert.equal((await user.get(first)).id, id);
  const { ciphertext } = await user.wrap(alias, { plaintext: PLAINTEXT });
  assert.equal((await user.unwrap(first, { ciphertext })).plaintext, PLAINTEXT);
  const other = await user.rootKey();
  await refused(409, 'KEY_ALIAS_NOT_UNIQUE_ERR', () => user.call('createKeyAlias', { id: other, alias }));

  assert.equal((await user.call('deleteKeyAlias', { id, alias })).status, 204);
  await refused(404, 'KEY_NOT_FOUND_ERR', () => user.get(alias));
});

story(async function a_key_is_disabled_and_enabled(user) {
  const id = await user.rootKey();
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT });
  assert.equal((await user.call('disableKey', { id })).status, 204);
  assert.equal((await user.get(id)).state, 2);
  const code = 'KEY_ACTION_INVALID_STATE_ERR';
  await refused(409, code, () => user.wrap(id, { plaintext: PLAINTEXT }));
  await refused(409, code, () => user.unwrap(id, { ciphertext }));
  await refused(409, code, () => user.call('rotateKey', { id }));

  assert.equal((await user.call('enableKey', { id })).status, 204);
  assert.equal((await user.unwrap(id, { ciphertext })).plaintext, PLAINTEXT);
});

story(async function a_key_is_deleted(user) {
  const id = await user.rootKey();
  const standard = (await user.create({})).id;
  const { ciphertext } = await user.wrap(id, { plaintext: PLAINTEXT });
  assert.equal((await user.call('deleteKey', { id })).status, 204);
  const whole = { id: standard, prefer: 'return=representation', force: false };
  const shown = await user.call('deleteKey', whole);
  assert.equal(shown.status, 200);
  assert.equal(shown.result.resources[0].id, standard);

  for (const each of [id, standard]) {
    const tombstone = await user.get(each);
    assert.deepEqual([tombstone.state, tombstone.deleted], [5, true]);
    assert.match(tombstone.deletionDate, DATE);
    assert.equal(tombstone.payload, undefined);
  }
  const code = 'KEY_DELETED_ERR';
  await refused(410, code, () => user.wrap(id, { plaintext: PLAINTEXT }));
  await refused(410, code, () => user.unwrap(id, { ciphertext }));
  await refused(410, code, () => user.call('rotateKey', { id }));
  await refused(410, code, () => user.call('deleteKey', { id }));
});
