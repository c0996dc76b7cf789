package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
)

// user is one caller with the client.
type user struct {
	*kp.Client
	world world
	ctx   context.Context
}

func newUser(described world, role string) *user {
	return userWith(described, role, described.Instance, described.CA)
}

func userWith(described world, role, instance, ca string) *user {
	config := kp.ClientConfig{
		BaseURL:       described.URL,
		Authorization: "Bearer " + described.Credentials[role],
		InstanceID:    instance,
	}
	client, err := kp.New(config, trusting(ca))
	must(err)
	return &user{Client: client, world: described, ctx: context.Background()}
}

// trusting returns the client's own transport, which verifies servers, with one authority.
func trusting(ca string) http.RoundTripper {
	transport := kp.DefaultTransport().(*http.Transport)
	content, err := os.ReadFile(ca)
	must(err)
	pool := x509.NewCertPool()
	check(pool.AppendCertsFromPEM(content), "no certificate in %s", ca)
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	return transport
}

func (u *user) as(role string) *user {
	return newUser(u.world, role)
}

func (u *user) rootKey() string {
	key, err := u.CreateRootKey(u.ctx, "root key", nil)
	must(err)
	return key.ID
}

func (u *user) standardKey() string {
	key, err := u.CreateStandardKey(u.ctx, "standard key", nil)
	must(err)
	return key.ID
}

func (u *user) importedKey(size int) string {
	key, err := u.CreateImportedRootKey(u.ctx, "imported key", nil, random(size), "", "")
	must(err)
	return key.ID
}

func (u *user) get(id string) *kp.Key {
	key, err := u.GetKey(u.ctx, id)
	must(err)
	return key
}

func (u *user) wrap(id string, aad []string) []byte {
	ciphertext, err := u.Wrap(u.ctx, id, plaintext, &aad)
	must(err)
	return ciphertext
}

// opens ends the story unless a ciphertext of plaintext is opened with an AAD.
func (u *user) opens(id string, ciphertext []byte, aad []string) []byte {
	opened, rewrapped, err := u.UnwrapV2(u.ctx, id, ciphertext, &aad)
	must(err)
	same(string(opened), string(plaintext))
	return rewrapped
}

// refused checks how the client reports a refusal, and returns the text of the service.
func refused(status int, code string, err error) string {
	var fault *kp.Error
	check(errors.As(err, &fault), "this should have been refused with %s, and gave %v", code, err)
	same(fault.StatusCode, status)
	check(len(fault.Reasons) == 1, "reasons: %v", fault.Reasons)
	same(fault.Reasons[0].Code, code)
	same(fault.Reasons[0].Status, status)
	check(fault.Reasons[0].Message != "", "there is no message")
	check(fault.Reasons[0].MoreInfo != "", "there is no moreInfo")
	check(fault.CorrelationID != "", "there is no correlation id")
	return fault.Message
}

// refusedFor checks a refusal that names a field, which the client has in the raw body only.
func refusedFor(field, code string, err error) {
	refused(http.StatusBadRequest, code, err)
	var fault *kp.Error
	errors.As(err, &fault)
	var document struct {
		Resources []struct {
			Reasons []struct{ Target struct{ Type, Name string } }
		}
	}
	must(json.Unmarshal(fault.BodyContent, &document))
	target := document.Resources[0].Reasons[0].Target
	same(target.Type+" "+target.Name, "field "+field)
}

var plaintext = []byte(base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")))

func random(size int) string {
	material := make([]byte, size)
	_, err := rand.Read(material)
	must(err)
	return base64.StdEncoding.EncodeToString(material)
}

func in(duration time.Duration) *time.Time {
	moment := time.Now().Add(duration)
	return &moment
}

func pointer[T any](value T) *T {
	return &value
}
