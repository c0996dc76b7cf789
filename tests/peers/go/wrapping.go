package main

import (
	"slices"
	"strings"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
)

var wrappingStories = []story{
	{"a_data_key_is_wrapped_and_unwrapped", aDataKeyIsWrapped},
	{"a_data_key_is_generated", aDataKeyIsGenerated},
	{"a_generated_key_is_rotated", aGeneratedKeyIsRotated},
	{"an_imported_key_is_rotated", anImportedKeyIsRotated},
	{"an_expired_key_only_unwraps", anExpiredKeyOnlyUnwraps},
}

var unicodeAAD = []string{"tenant-7", "", "naïve café", "鍵", "🔑"}

func aDataKeyIsWrapped(u *user) {
	id := u.rootKey()
	for _, aad := range [][]string{nil, {}, {"one"}, {"one", "two"}, unicodeAAD} {
		check(len(u.opens(id, u.wrap(id, aad), aad)) == 0, "a new ciphertext without a rotation")
	}

	// The client leaves an empty list away, so both must be the same.
	without, err := u.WrapV2(u.ctx, id, plaintext, nil)
	must(err)
	check(without.PlainText == "" && without.KeyVersion.ID != "", "not an answer: %+v", without)
	u.opens(id, []byte(without.CipherText), []string{})

	largest, many := []byte(random(4096)), slices.Repeat([]string{strings.Repeat("鍵", 255)}, 126)
	ciphertext, err := u.Wrap(u.ctx, id, largest, &many)
	must(err)
	opened, err := u.Unwrap(u.ctx, id, ciphertext, &many)
	must(err)
	same(string(opened), string(largest))

	u.as("Viewer").opens(id, u.wrap(id, nil), nil)
}

func aDataKeyIsGenerated(u *user) {
	id := u.rootKey()
	for _, aad := range []*[]string{nil, {}, {"one"}} {
		made, ciphertext, err := u.WrapCreateDEK(u.ctx, id, aad)
		must(err)
		same(len(made), 44)
		opened, err := u.Unwrap(u.ctx, id, ciphertext, aad)
		must(err)
		same(string(opened), string(made))
	}
	made, err := u.WrapCreateDEKV2(u.ctx, id, nil)
	must(err)
	check(made.PlainText != "" && made.KeyVersion.ID != "", "not an answer: %+v", made)
}

func aGeneratedKeyIsRotated(u *user) {
	id := u.rootKey()
	old := u.wrap(id, []string{"one"})
	must(u.RotateV2(u.ctx, id, nil))
	fresh := u.opens(id, old, []string{"one"})
	check(len(fresh) > 0, "no new ciphertext after a rotation")
	check(len(u.opens(id, fresh, []string{"one"})) == 0, "a new ciphertext twice")

	must(u.Rotate(u.ctx, id, ""))
	u.opens(id, old, []string{"one"})
	options := &kp.ListKeyVersionsOptions{TotalCount: pointer(true), AllKeyStates: pointer(true)}
	versions, err := u.ListKeyVersions(u.ctx, id, options)
	must(err)
	same(*versions.Metadata.CollectionTotal, 3)
	same(*versions.Metadata.TotalCount, 3)
	for _, version := range versions.KeyVersion {
		check(version.ID != "" && version.CreationDate != nil, "not a version: %+v", version)
	}
	check(u.get(id).LastRotateDate != nil, "it has no date of rotation")

	all, err := u.ListKeyVersions(u.ctx, id, nil)
	must(err)
	same(len(all.KeyVersion), 3)
	options = &kp.ListKeyVersionsOptions{Limit: pointer(uint32(1)), Offset: pointer(uint32(1))}
	one, err := u.ListKeyVersions(u.ctx, id, options)
	must(err)
	same(len(one.KeyVersion), 1)
}

func anImportedKeyIsRotated(u *user) {
	id := u.importedKey(32)
	old := u.wrap(id, nil)
	must(u.Rotate(u.ctx, id, random(48)))
	fresh := kp.NewKeyPayload(random(64), "", "")
	must(u.RotateV2(u.ctx, id, &fresh))
	u.opens(id, old, nil)

	refused(400, "KEY_PAYLOAD_REQ_ERR", u.RotateV2(u.ctx, id, nil))
	refused(400, "KEY_PAYLOAD_REQ_ERR", u.Rotate(u.ctx, id, ""))
}

func anExpiredKeyOnlyUnwraps(u *user) {
	key, err := u.CreateRootKey(u.ctx, "root key", in(2*time.Second))
	must(err)
	old := u.wrap(key.ID, nil)
	waitFor(func() bool { return u.get(key.ID).State == int(kp.Deactivated) })
	check(len(u.opens(key.ID, old, nil)) == 0, "an expired key wraps again")
	_, err = u.Wrap(u.ctx, key.ID, plaintext, nil)
	refused(409, "KEY_ACTION_INVALID_STATE_ERR", err)
	refused(409, "KEY_ACTION_INVALID_STATE_ERR", u.RotateV2(u.ctx, key.ID, nil))
}
