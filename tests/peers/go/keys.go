package main

import (
	"context"
	"slices"
	"time"

	kp "github.com/IBM/keyprotect-go-client"
	"github.com/google/uuid"
)

var keyStories = []story{
	{"a_root_key_is_created", aRootKeyIsCreated},
	{"a_standard_key_is_created", aStandardKeyIsCreated},
	{"keys_are_imported", keysAreImported},
	{"keys_are_listed_by_pages_and_filters", keysAreListed},
	{"a_key_is_read", aKeyIsRead},
	{"an_alias_names_a_key", anAliasNamesAKey},
	{"a_key_is_disabled_and_enabled", aKeyIsDisabledAndEnabled},
	{"a_key_is_deleted", aKeyIsDeleted},
	{"the_steps_of_its_readme_work", theStepsOfItsReadmeWork},
	{"a_context_carries_credential_and_correlation_id", aContextCarriesCredentials},
}

func aRootKeyIsCreated(u *user) {
	key, err := u.CreateRootKey(u.ctx, "root key", in(time.Hour))
	must(err)
	_, err = uuid.Parse(key.ID)
	must(err)
	same(key.Name, "root key")
	same(key.State, int(kp.Active))
	check(!key.Extractable && !key.Imported && key.Payload == "", "not a root key: %+v", key)
	check(key.LastUpdateDate == nil, "a new key has a date of change")
	check(key.Expiration.Nanosecond() == 0, "a date has a fraction: %v", key.Expiration)

	options := []kp.CreateKeyOption{
		kp.WithDescription("for volumes"), kp.WithTags([]string{"blue"}),
	}
	described, err := u.CreateKeyWithOptions(u.ctx, "root key", false, options...)
	must(err)
	same(described.Description, "for volumes")
	shown := u.get(described.ID)
	same(shown.Description, "for volumes")
	check(slices.Equal(shown.Tags, []string{"blue"}), "tags: %v", shown.Tags)
}

func aStandardKeyIsCreated(u *user) {
	key, err := u.CreateStandardKey(u.ctx, "standard key", nil)
	must(err)
	check(key.Extractable && key.Payload == "", "not what was asked for: %+v", key)
	same(len(u.get(key.ID).Payload), 44)
}

func keysAreImported(u *user) {
	for _, size := range []int{32, 48, 64} {
		id := u.importedKey(size)
		key := u.get(id)
		check(key.Imported && key.Payload == "", "not an imported root key: %+v", key)
		u.opens(id, u.wrap(id, nil), nil)
	}
	payload := random(32)
	standard, err := u.CreateImportedStandardKey(u.ctx, "standard key", nil, payload)
	must(err)
	same(u.get(standard.ID).Payload, payload)
}

func keysAreListed(u *user) {
	made := []string{u.rootKey(), u.rootKey(), u.standardKey()}
	gone := u.rootKey()
	_, err := u.DeleteKey(u.ctx, gone, kp.ReturnMinimal)
	must(err)

	everything, err := u.GetKeys(u.ctx, 0, 0)
	must(err)
	all := ids(everything)
	same(everything.Metadata.NumberOfKeys, len(all))
	for _, id := range made {
		check(slices.Contains(all, id), "%s is not listed", id)
	}
	check(!slices.Contains(all, gone), "a destroyed key is listed")

	first, err := u.GetKeys(u.ctx, 2, 0)
	must(err)
	second, err := u.GetKeys(u.ctx, 2, 2)
	must(err)
	check(slices.Equal(append(ids(first), ids(second)...), all[:4]), "pages differ from the list")

	roots := u.list(&kp.ListKeysOptions{Extractable: pointer(false)})
	standards := u.list(&kp.ListKeysOptions{Extractable: pointer(true)})
	same(len(roots)+len(standards), len(all))
	destroyed := u.list(&kp.ListKeysOptions{State: []kp.KeyState{kp.Destroyed}})
	check(slices.Contains(destroyed, gone), "the destroyed key is not listed")
	states := []kp.KeyState{0, kp.Active, kp.Suspended, kp.Deactivated, kp.Destroyed}
	same(len(u.list(&kp.ListKeysOptions{State: states})), len(all)+len(destroyed))
	same(len(u.list(&kp.ListKeysOptions{Limit: pointer(uint32(1)), Offset: pointer(uint32(1))})), 1)
}

func (u *user) list(options *kp.ListKeysOptions) []string {
	keys, err := u.ListKeys(u.ctx, options)
	must(err)
	return ids(keys)
}

func ids(keys *kp.Keys) []string {
	found := []string{}
	for _, key := range keys.Keys {
		check(key.Payload == "", "a list shows a payload")
		found = append(found, key.ID)
	}
	return found
}

func aKeyIsRead(u *user) {
	id := u.standardKey()
	key := u.get(id)
	same(key.ID, id)
	check(key.CreatedBy != "", "nobody has created it")
	check(time.Since(*key.CreationDate) < time.Hour, "created at %v", key.CreationDate)
	check(key.KeyVersion.ID != "", "it has no version")

	metadata, err := u.GetKeyMetadata(u.ctx, id)
	must(err)
	same(metadata.ID, id)
	same(metadata.Payload, "")
	check(key.Payload != "", "a standard key has no payload")
}

func anAliasNamesAKey(u *user) {
	first, second := "volumes-"+uuid.NewString(), "backups-"+uuid.NewString()
	key, err := u.CreateKeyWithAliases(u.ctx, "root key", nil, false, []string{first})
	must(err)
	added, err := u.CreateKeyAlias(u.ctx, second, key.ID)
	must(err)
	same(added.KeyID+" "+added.Alias, key.ID+" "+second)
	check(added.CreationDate != nil && added.CreatedBy != "", "no date or creator: %+v", added)

	same(u.get(first).ID, key.ID)
	u.opens(first, u.wrap(second, nil), nil)
	_, err = u.CreateKeyAlias(u.ctx, first, u.rootKey())
	refused(409, "KEY_ALIAS_NOT_UNIQUE_ERR", err)

	must(u.DeleteKeyAlias(u.ctx, second, key.ID))
	_, err = u.GetKey(u.ctx, second)
	refused(404, "KEY_NOT_FOUND_ERR", err)
}

func aKeyIsDisabledAndEnabled(u *user) {
	id := u.rootKey()
	old := u.wrap(id, nil)
	must(u.DisableKey(u.ctx, id))
	same(u.get(id).State, int(kp.Suspended))
	_, err := u.Wrap(u.ctx, id, plaintext, nil)
	refused(409, "KEY_ACTION_INVALID_STATE_ERR", err)
	_, err = u.Unwrap(u.ctx, id, old, nil)
	refused(409, "KEY_ACTION_INVALID_STATE_ERR", err)

	must(u.EnableKey(u.ctx, id))
	u.opens(id, old, nil)
}

func aKeyIsDeleted(u *user) {
	id, standard := u.rootKey(), u.standardKey()
	old := u.wrap(id, nil)
	shown, err := u.DeleteKey(u.ctx, id, kp.ReturnMinimal)
	must(err)
	check(shown == nil, "a minimal answer shows a key")
	shown, err = u.DeleteKey(u.ctx, standard, kp.ReturnRepresentation, kp.ForceOpt{Force: false})
	must(err)
	same(shown.ID, standard)

	for _, each := range []string{id, standard} {
		tombstone := u.get(each)
		same(tombstone.State, int(kp.Destroyed))
		check(*tombstone.Deleted && *tombstone.DeletedBy != "", "not deleted: %+v", tombstone)
		check(tombstone.DeletionDate != nil, "it has no date")
		same(tombstone.Payload, "")
	}
	_, err = u.Wrap(u.ctx, id, plaintext, nil)
	refused(410, "KEY_DELETED_ERR", err)
	_, err = u.Unwrap(u.ctx, id, old, nil)
	refused(410, "KEY_DELETED_ERR", err)
	refused(410, "KEY_DELETED_ERR", u.Rotate(u.ctx, id, ""))
	_, err = u.DeleteKey(u.ctx, id, kp.ReturnMinimal)
	refused(410, "KEY_DELETED_ERR", err)
}

func theStepsOfItsReadmeWork(u *user) {
	_, err := u.GetKeys(u.ctx, 0, 0)
	must(err)
	root, err := u.CreateKey(u.ctx, "root key", nil, false)
	must(err)
	made, wrapped, err := u.WrapCreateDEK(u.ctx, root.ID, nil)
	must(err)
	opened, _, err := u.UnwrapV2(u.ctx, root.ID, wrapped, nil)
	must(err)
	same(string(opened), string(made))
	_, err = u.DeleteKey(u.ctx, root.ID, kp.ReturnMinimal)
	must(err)
}

func aContextCarriesCredentials(u *user) {
	expired := u.as("expired")
	credential := "Bearer " + u.world.Credentials["Administrator"]
	_, err := expired.GetKeys(kp.NewContextWithAuth(u.ctx, credential), 1, 0)
	must(err)

	correlation := uuid.New()
	ctx := kp.NewContextWithCorrelationID(u.ctx, &correlation)
	_, err = u.GetKey(ctx, uuid.NewString())
	refused(404, "KEY_NOT_FOUND_ERR", err)
	same(err.(*kp.Error).CorrelationID, correlation.String())

	u.Config.KeyRing = "default"
	u.Config.Headers = map[string][]string{"X-Custom": {"one", "two"}}
	cancelled, cancel := context.WithCancel(u.ctx)
	u.get(u.rootKey())
	cancel()
	_, err = u.GetKeys(cancelled, 1, 0)
	check(err != nil, "a cancelled context did not end the call")
}
