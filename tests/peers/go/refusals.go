package main

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
	"github.com/google/uuid"
)

var refusalStories = []story{
	{"a_bad_request_names_what_is_wrong", aBadRequestNamesWhatIsWrong},
	{"strangers_are_refused", strangersAreRefused},
	{"a_key_that_is_not_there_is_not_found", aMissingKeyIsNotFound},
	{"a_wrong_ciphertext_is_unprocessable", aWrongCiphertextIsUnprocessable},
	{"what_is_not_served_is_refused_in_the_same_shape", whatIsNotServedIsRefused},
	{"a_rate_limit_is_waited_for", aRateLimitIsWaitedFor},
	{"a_timeout_ends_a_call", aTimeoutEndsACall},
	{"the_certificate_is_checked", theCertificateIsChecked},
}

func aBadRequestNamesWhatIsWrong(u *user) {
	const bad = "INVALID_FIELD_ERR"
	id := u.rootKey()
	_, err := u.Wrap(u.ctx, id, []byte(random(4097)), nil)
	refusedFor("plaintext", bad, err)
	_, err = u.Wrap(u.ctx, id, plaintext, pointer(slices.Repeat([]string{"x"}, 127)))
	refusedFor("aad", bad, err)
	_, err = u.Unwrap(u.ctx, id, []byte("AAAA"), nil)
	refusedFor("ciphertext", bad, err)
	_, err = u.CreateImportedRootKey(u.ctx, "short", nil, random(16), "", "")
	refusedFor("payload", bad, err)
	_, err = u.CreateRootKey(u.ctx, "past", in(-time.Hour))
	refusedFor("expirationDate", bad, err)
	_, err = u.GetKeys(u.ctx, 5001, 0)
	refused(400, "INVALID_QUERY_PARAM_ERR", err)
	_, err = u.Wrap(u.ctx, u.standardKey(), plaintext, nil)
	refused(400, "KEY_ROOT_REQ_ERR", err)
	refused(400, "INVALID_QUERY_PARAM_ERR", u.Rotate(u.ctx, id, random(32)))

	nowhere := userWith(u.world, "Administrator", "no-uuid", u.world.CA)
	_, err = nowhere.GetKeys(u.ctx, 0, 0)
	text := refused(400, "INVALID_INSTANCE_HEADER_ERR", err)
	same(text, "Bad Request: Request requires valid Instance Header containing a valid UUID")
}

func strangersAreRefused(u *user) {
	id := u.rootKey()
	for _, role := range []string{"expired", "forged"} {
		_, err := u.as(role).GetKey(u.ctx, id)
		refused(401, "UNAUTHORIZED_ERR", err)
	}
	viewer, editor := u.as("Viewer"), u.as("Editor")
	_, err := viewer.GetKey(u.ctx, id)
	refused(403, "FORBIDDEN_ERR", err)
	_, err = viewer.GetKeys(u.ctx, 0, 0)
	refused(403, "FORBIDDEN_ERR", err)
	_, err = viewer.CreateRootKey(u.ctx, "root key", nil)
	refused(403, "FORBIDDEN_ERR", err)
	refused(403, "FORBIDDEN_ERR", editor.RotateV2(u.ctx, id, nil))
	_, err = editor.DeleteKey(u.ctx, id, kp.ReturnMinimal)
	refused(403, "FORBIDDEN_ERR", err)
	same(editor.get(id).ID, id)
}

func aMissingKeyIsNotFound(u *user) {
	missing := uuid.NewString()
	_, err := u.GetKey(u.ctx, missing)
	refused(404, "KEY_NOT_FOUND_ERR", err)
	_, err = u.Wrap(u.ctx, missing, plaintext, nil)
	refused(404, "KEY_NOT_FOUND_ERR", err)
	_, err = u.DeleteKey(u.ctx, missing, kp.ReturnMinimal)
	refused(404, "KEY_NOT_FOUND_ERR", err)

	elsewhere := userWith(u.world, "Administrator", u.world.OtherInstance, u.world.CA).rootKey()
	_, err = u.GetKey(u.ctx, elsewhere)
	refused(404, "KEY_NOT_FOUND_ERR", err)
}

func aWrongCiphertextIsUnprocessable(u *user) {
	id, other := u.rootKey(), u.rootKey()
	right := u.wrap(id, []string{"a", "bc"})
	broken, err := base64.StdEncoding.DecodeString(string(right))
	must(err)
	broken[len(broken)-1] ^= 1
	changed := []byte(base64.StdEncoding.EncodeToString(broken))
	texts := map[string]bool{}
	for _, each := range []struct {
		id         string
		ciphertext []byte
		aad        []string
	}{
		{id, right, []string{"ab", "c"}},
		{id, right, nil},
		{id, changed, []string{"a", "bc"}},
		{other, right, []string{"a", "bc"}},
	} {
		_, err := u.Unwrap(u.ctx, each.id, each.ciphertext, &each.aad)
		texts[refused(422, "UNPROCESSABLE_CIPHERTEXT_ERR", err)] = true
	}
	same(len(texts), 1)
}

func whatIsNotServedIsRefused(u *user) {
	id := u.rootKey()
	_, err := u.RestoreKey(u.ctx, id)
	refused(404, "NOT_FOUND_ERR", err)
	_, err = u.GetPolicies(u.ctx, id)
	refused(404, "NOT_FOUND_ERR", err)
	_, err = u.CreateRootKeyWithPolicyOverrides(u.ctx, "root key", nil, nil, kp.Policy{})
	refused(404, "NOT_FOUND_ERR", err)
}

func aRateLimitIsWaitedFor(u *user) {
	patient := newUser(*u.world.Throttled, "Administrator")
	for range patientCalls {
		_, err := patient.GetKeys(u.ctx, 0, 0)
		must(err)
	}

	defer func(retries int) { kp.RetryMax = retries }(kp.RetryMax)
	kp.RetryMax = 0
	var err error
	for range hurriedCalls {
		if _, err = patient.GetKeys(u.ctx, 0, 0); err != nil {
			break
		}
	}
	refused(429, "TOO_MANY_REQUESTS_ERR", err)
}

func aTimeoutEndsACall(u *user) {
	// The client would try again, for a minute; a context of its own must end that.
	ctx, cancel := context.WithTimeout(u.ctx, time.Nanosecond)
	defer cancel()
	_, err := u.GetKeys(ctx, 1, 0)
	check(errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil, "it ended with %v", err)

	u.HttpClient.Timeout = 20 * time.Second
	_, err = u.GetKeys(u.ctx, 1, 0)
	must(err)
}

func theCertificateIsChecked(u *user) {
	stranger := userWith(u.world, "Administrator", u.world.Instance, u.world.OtherCA)
	defer func(retries int) { kp.RetryMax = retries }(kp.RetryMax)
	kp.RetryMax = 0
	_, err := stranger.GetKeys(u.ctx, 1, 0)
	check(err != nil && strings.Contains(err.Error(), "unknown authority"), "it ended with %v", err)
}
