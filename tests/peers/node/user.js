// One caller with the client, and how a refusal is checked.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');

const KeyProtectV2 = require('@ibm-cloud/ibm-key-protect/ibm-key-protect-api/v2');
const { BearerTokenAuthenticator } = require('@ibm-cloud/ibm-key-protect/auth');

const { rejected } = require('./stories');

const KEY_TYPE = 'application/vnd.ibm.kms.key+json';
const DATE = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$/;
const PLAINTEXT = Buffer.from('0123456789abcdef').toString('base64');
const UNICODE_AAD = ['tenant-7', '', 'naïve café', '鍵', '🔑'];

/** One caller with the client. */
class User {
  constructor(world, role = 'Administrator', instance = 'instance', options = {}) {
    this.world = world;
    this.instance = world[instance];
    this.kp = new KeyProtectV2({
      authenticator: new BearerTokenAuthenticator({ bearerToken: world.credentials[role] }),
      serviceUrl: world.url,
      ...options,
    });
  }

  as(role) {
    return new User(this.world, role);
  }

  /** Calls a method of the client in the caller's instance. */
  call(method, params = {}) {
    return this.kp[method]({ bluemixInstance: this.instance, ...params });
  }

  async create(resource, params = {}) {
    const body = {
      metadata: { collectionType: KEY_TYPE, collectionTotal: 1 },
      resources: [{ type: KEY_TYPE, name: 'a key', ...resource }],
    };
    const response = await this.call('createKey', { body, ...params });
    assert.equal(response.status, 201);
    assert.deepEqual(response.result.metadata, body.metadata);
    return response.result.resources[0];
  }

  async rootKey(resource = {}) {
    return (await this.create({ name: 'root key', extractable: false, ...resource })).id;
  }

  async get(id) {
    return (await this.call('getKey', { id })).result.resources[0];
  }

  async wrap(id, keyActionWrapBody) {
    return (await this.call('wrapKey', { id, keyActionWrapBody })).result;
  }

  async unwrap(id, keyActionUnwrapBody) {
    return (await this.call('unwrapKey', { id, keyActionUnwrapBody })).result;
  }

  async page(query = {}) {
    const response = await this.call('getKeys', query);
    const { metadata, resources } = response.result;
    assert.equal(metadata.collectionTotal, resources.length);
    return { resources, total: Number(response.headers['key-total']) };
  }
}

/** Checks how the client reports a refusal, and returns what the service says of it. */
async function refused(status, code, call, target) {
  const error = await rejected(call);
  assert.equal(error.status, status);
  const [resource] = JSON.parse(error.body).resources;
  const [reason] = resource.reasons;
  assert.deepEqual([reason.code, reason.status], [code, status]);
  assert.ok(reason.message);
  assert.ok(error.headers['correlation-id']);
  if (target) {
    assert.deepEqual(reason.target, { type: 'field', name: target });
  }
  return resource.errorMsg;
}

const random = (size) => crypto.randomBytes(size).toString('base64');
const inSeconds = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();

module.exports = {
  User,
  KEY_TYPE,
  DATE,
  PLAINTEXT,
  UNICODE_AAD,
  refused,
  random,
  inSeconds,
};
