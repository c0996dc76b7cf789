package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"
)

// pair is a key with its value, as etcd's JSON gateway takes and returns it.
type pair struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// reseed writes every object below a prefix anew, under a seed of its own, with the code
// that an API server encrypts and decrypts with. An API server makes a seed when it
// starts or when the key changes, so this is what etcd holds after as many of those.
func reseed(_ context.Context, arguments []string) (any, error) {
	var p provider
	set := flag.NewFlagSet("reseed", flag.ContinueOnError)
	p.flags(set)
	etcd := set.String("etcd", "", "etcd's client URL on the loopback address")
	prefix := set.String("prefix", "", "such as /registry/secrets/default/")
	if err := set.Parse(arguments); err != nil {
		return nil, err
	}
	if p.socket == "" || *etcd == "" || *prefix == "" {
		return nil, errors.New("--socket, --etcd and --prefix are needed")
	}
	client, err := p.dial()
	if err != nil {
		return nil, err
	}
	pairs, err := below(*etcd, *prefix)
	if err != nil {
		return nil, err
	}
	read := transformer(client, p.name, func() (kmsv2.State, error) { return kmsv2.State{}, nil })
	write := transformer(client, p.name, func() (kmsv2.State, error) { return freshState(client, p.name) })
	for _, object := range pairs {
		if err := rewrite(read, write, &object); err != nil {
			return nil, fmt.Errorf("%s: %w", object.Key, err)
		}
		if err := post(*etcd+"/v3/kv/put", object, &struct{}{}); err != nil {
			return nil, err
		}
	}
	return map[string]int{"objects": len(pairs)}, nil
}

// transformer is what an API server has for one provider; it asks for the state of each write.
func transformer(client service.Service, name string, state kmsv2.StateFunc) value.Transformer {
	return value.NewPrefixTransformers(nil, value.PrefixTransformer{
		Prefix:      []byte("k8s:enc:kms:v2:" + name + ":"),
		Transformer: kmsv2.NewEnvelopeTransformer(client, name, state, "kmsclient"),
	})
}

func rewrite(read, write value.Transformer, object *pair) error {
	// The API server authenticates the key in etcd together with the value.
	key := value.DefaultContext(object.Key)
	plain, _, err := read.TransformFromStorage(context.Background(), object.Value, key)
	if err != nil {
		return err
	}
	object.Value, err = write.TransformToStorage(context.Background(), plain, key)
	return err
}

// freshState makes a seed that nothing else uses.
func freshState(client service.Service, name string) (kmsv2.State, error) {
	id := string(uuid.NewUUID())
	transformer, object, cacheKey, err := kmsv2.GenerateTransformer(context.Background(), id, client, true)
	if err != nil {
		return kmsv2.State{}, err
	}
	return kmsv2.State{
		Transformer:                           transformer,
		EncryptedObjectKeyID:                  object.KeyID,
		EncryptedObjectEncryptedDEKSource:     object.EncryptedDEKSource,
		EncryptedObjectAnnotations:            object.Annotations,
		EncryptedObjectEncryptedDEKSourceType: object.EncryptedDEKSourceType,
		UID:                                   id,
		ExpirationTimestamp:                   time.Now().Add(time.Minute),
		CacheKey:                              cacheKey,
		KMSProviderName:                       name,
	}, nil
}

// below reads all pairs with a prefix; etcd's idiom is a range up to the next string.
func below(etcd, prefix string) ([]pair, error) {
	first, afterLast := []byte(prefix), []byte(prefix)
	afterLast[len(afterLast)-1]++
	var answer struct {
		Pairs []pair `json:"kvs"`
	}
	query := map[string][]byte{"key": first, "range_end": afterLast}
	if err := post(etcd+"/v3/kv/range", query, &answer); err != nil {
		return nil, err
	}
	return answer.Pairs, nil
}

func post(url string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd answered %s", response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
