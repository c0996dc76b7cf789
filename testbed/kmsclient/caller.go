package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"
)

const (
	seedBytes     = 32 // as many as a seed of the API server has
	rememberedMax = 100
)

var errWrongPlaintext = errors.New("Decrypt returned another plaintext than was encrypted")

// call makes one call and returns what went wrong, if anything did. No deadline is set
// here: the client has its own.
type call func() error

// sealed is a seed and what Encrypt answered for it.
type sealed struct {
	seed   []byte
	answer *service.EncryptResponse
}

// caller makes the three calls, looks at the answers as the API server does, and keeps
// what they told about health and key.
type caller struct {
	client service.Service

	lock   sync.Mutex
	health []string
	keyIDs []string
}

// prepare makes the ciphertexts that are going to be decrypted.
func (c *caller) prepare(p *plan) ([]sealed, error) {
	switch p.mode {
	case "status", "encrypt", "mixed":
		return nil, nil
	case "decrypt":
		made := make([]sealed, p.seeds)
		for number := range made {
			var err error
			if made[number], err = c.encrypt(); err != nil {
				return nil, fmt.Errorf("no ciphertext to decrypt: %w", err)
			}
		}
		return made, nil
	}
	return nil, fmt.Errorf("there is no mode %q", p.mode)
}

// work returns what one of the concurrent callers does again and again.
func (c *caller) work(mode string, prepared []sealed, number int) call {
	switch mode {
	case "status":
		return c.status
	case "encrypt":
		return func() error { _, err := c.encrypt(); return err }
	case "decrypt":
		return func() error {
			one := prepared[number%len(prepared)]
			number++
			return c.decrypt(one)
		}
	}
	var kept *sealed
	return func() error {
		if kept != nil {
			one := *kept
			kept = nil
			return c.decrypt(one)
		}
		one, err := c.encrypt()
		if err == nil {
			kept = &one
		}
		return err
	}
}

func (c *caller) status() error {
	answer, err := c.client.Status(context.Background())
	if err != nil {
		return err
	}
	c.lock.Lock()
	c.health = append(c.health, unknown(c.health, answer.Healthz)...)
	c.lock.Unlock()
	return c.noteKey(answer.KeyID)
}

func (c *caller) encrypt() (sealed, error) {
	seed := make([]byte, seedBytes)
	_, _ = rand.Read(seed) // never fails (Go 1.24)
	answer, err := c.client.Encrypt(context.Background(), string(uuid.NewUUID()), seed)
	if err != nil {
		return sealed{}, err
	}
	if len(answer.Ciphertext) == 0 {
		return sealed{}, errors.New("Encrypt returned an empty ciphertext")
	}
	return sealed{seed, answer}, c.noteKey(answer.KeyID)
}

func (c *caller) decrypt(one sealed) error {
	plaintext, err := c.client.Decrypt(context.Background(), string(uuid.NewUUID()), &service.DecryptRequest{
		Ciphertext:  one.answer.Ciphertext,
		KeyID:       one.answer.KeyID,
		Annotations: one.answer.Annotations,
	})
	if err == nil && !bytes.Equal(plaintext, one.seed) {
		return errWrongPlaintext
	}
	return err
}

func (c *caller) noteKey(keyID string) error {
	if _, err := kmsv2.ValidateKeyID(keyID); err != nil {
		return err
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	c.keyIDs = append(c.keyIDs, unknown(c.keyIDs, keyID)...)
	return nil
}

// unknown returns the text if it is not the last one already and there is room for it.
func unknown(known []string, text string) []string {
	if len(known) >= rememberedMax || len(known) > 0 && known[len(known)-1] == text {
		return nil
	}
	return []string{text}
}
