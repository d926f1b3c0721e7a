// A real OpenID provider for the tests: node provider.mjs PORT CLOCK_OFFSET_SECONDS
//
// Its keys are new each time. Whoever logs in is who they say; the first line it prints is its issuer.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";

const [port, offset] = process.argv.slice(2).map(Number);
const now = Date.now;
// Tokens are made by this clock: one that is slow makes some that have expired.
Date.now = () => now() + offset * 1000;

const { default: Provider } = await import("oidc-provider");

const key = (type, options, alg) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), use: "sig", alg };
};

const server = createServer();
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "forge",
      client_secret: "a secret: with a colon",
      redirect_uris: ["https://forge.example/api/auth/oidc/callback/"],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
    {
      client_id: "robot",
      client_secret: "another-secret",
      redirect_uris: [],
      grant_types: ["client_credentials"],
      response_types: [],
    },
  ],
  jwks: {
    keys: [key("rsa", { modulusLength: 2048 }, "RS256"), key("ec", { namedCurve: "P-256" }, "ES256")],
  },
  cookies: { keys: ["not a secret"] },
  pkce: { required: () => true },
  claims: {
    openid: ["sub"],
    profile: ["preferred_username", "groups"],
    email: ["email", "email_verified"],
  },
  findAccount: (_context, login) => ({
    accountId: login,
    claims: () => ({
      sub: login,
      preferred_username: `${login}.name`,
      email: `${login}@example.org`,
      email_verified: true,
      groups: login === "stranger" ? [] : ["devs"],
    }),
  }),
  extraTokenClaims: () => ({ groups: ["devs"] }),
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({
        scope: "api",
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: 600,
        jwt: { sign: { alg: resource.endsWith("/curve") ? "ES256" : "RS256" } },
      }),
    },
  },
});

provider.on("server_error", (_context, error) => console.error(error));
server.on("request", provider.callback());
console.log(issuer);
