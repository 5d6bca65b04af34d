import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Network } from '../../src/guest/network/network.ts';

const test = suite('guest/network/neighbours');

test('what another partition knew of the segment is learned and handed on, for both families', () => {
  const first = {
    socket: '/nowhere/port.sock',
    mac: '02:00:00:00:00:0b',
    addresses: ['10.77.0.11/24', 'fd00::11/64'],
    gateways: ['10.77.0.1'],
  };
  const second = { socket: '/nowhere/2.sock', mac: '02:00:00:00:01:0b', addresses: ['10.88.0.11/24'] };
  const network = new Network([first, second], () => {});
  try {
    assert.equal(
      network.addresses,
      ['10.77.0.11/24', 'fd00::11/64', '10.88.0.11/24'],
      'in use at once, without the link-local one',
    );
    const known = [
      { address: '10.77.0.1', mac: '02:00:00:00:00:01' },
      { address: 'fd00::1', mac: '02:00:00:00:00:01' },
      { address: 'fe80::1', mac: '02:00:00:00:00:01' },
      // The same link-local address behind the other device is somebody else.
      { address: '10.88.0.1', mac: '02:00:00:00:01:01', device: 1 },
      { address: 'fe80::1', mac: '02:00:00:00:01:01', device: 1 },
    ];
    const malformed = [
      { address: 'fd00::1::2', mac: '02:00:00:00:00:02' },
      { address: 'fd00::3', mac: '02:00' },
      { address: '10.88.0.2', mac: '02:00:00:00:01:02', device: 2 },
    ];
    network.learn([...known, ...malformed]);
    assert.equal(network.neighbors(), known);
  } finally {
    network.close();
  }
});

test.run();
