// An OpenID Connect provider on loopback that gives out JWT access tokens by the
// client credentials grant.
//
//   node server.js <configuration.json> <ready>
//
// The configuration is an object with
//   certificate, key   paths of PEM files for TLS
//   port               TCP port
//   keys               private JWKs; the public halves are published
//   clients            {id: {secret, algorithm, audience, seconds, claims}}: how a
//                      client's tokens are signed, whom they are for, how long they
//                      live, and what they say besides
//
// The second file appears once the provider answers. SIGHUP reads keys and clients
// again, as a provider is told to rotate its keys; the file then holds a higher number.

import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';

import { Provider } from 'oidc-provider';

const [configurationFile, readyFile] = process.argv.slice(2);

function readConfiguration() {
  return JSON.parse(readFileSync(configurationFile, 'utf8'));
}

function clientMetadata([id, { secret }]) {
  return {
    client_id: id,
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  };
}

function makeProvider(issuer, { clients, keys }) {
  const provider = new Provider(issuer, {
    clients: Object.entries(clients).map(clientMetadata),
    extraTokenClaims: (ctx, token) => clients[token.clientId].claims,
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:keyplane',
        getResourceServerInfo: (ctx, resource, client) => ({
          accessTokenFormat: 'jwt',
          audience: clients[client.clientId].audience,
          jwt: { sign: { alg: clients[client.clientId].algorithm } },
          scope: '',
        }),
      },
    },
    jwks: { keys },
    ttl: { ClientCredentials: (ctx, token, client) => clients[client.clientId].seconds },
  });
  return provider.callback();
}

const start = readConfiguration();
const issuer = `https://127.0.0.1:${start.port}`;
const server = createServer({
  cert: readFileSync(start.certificate),
  key: readFileSync(start.key),
});

let answer = makeProvider(issuer, start);
let generation = 0;

function announce() {
  // Renamed into place, so that nobody reads half of it.
  writeFileSync(`${readyFile}.new`, String(generation));
  renameSync(`${readyFile}.new`, readyFile);
}

server.on('request', (request, response) => answer(request, response));
server.listen(start.port, '127.0.0.1', announce);

process.on('SIGHUP', () => {
  answer = makeProvider(issuer, readConfiguration());
  generation += 1;
  announce();
});
process.on('SIGTERM', () => process.exit(0));
