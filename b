sep=;
user;item;rating
1;2;3,5
