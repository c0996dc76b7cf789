// npm `@ibm-cloud/ibm-key-protect`, as its README uses it.
//
// It reads JSON of any type, and its POST without a body still names the type of one.

'use strict';

const { tell } = require('./stories');
const { User } = require('./user');

require('./keys');
require('./wrapping');
require('./refusals');
require('./usage');

tell((world) => new User(world));
